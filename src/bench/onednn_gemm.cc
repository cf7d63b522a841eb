#include "bench/onednn_gemm.h"

#ifdef MSPLORA_WITH_ONEDNN
#include "nn/onednn_matmul.h"
#endif

namespace msplora::detail {

#ifdef MSPLORA_WITH_ONEDNN
namespace {

using dnnl::memory;

memory::data_type onednn_type(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? memory::data_type::bf16 : memory::data_type::f32;
}

class PackedGemm : public GemmVariant {
 public:
  PackedGemm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& y)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_), x_(x), weight_(weight), y_(y) {
    const int64_t rows = x.size(0), in = x.size(1), out = weight.size(0);
    const memory::data_type type = onednn_type(x.scalar_type());
    const memory::desc x_desc({rows, in}, type, memory::format_tag::ab);
    const memory::desc y_desc({rows, out}, type, memory::format_tag::ab);
    const memory::desc any_weight({in, out}, type, memory::format_tag::any);
    const dnnl::matmul::primitive_desc plan = plan_matmul(engine_, x_desc, any_weight, /*bias=*/{}, y_desc);
    product_ = dnnl::matmul(plan);
    x_memory_ = memory(x_desc, engine_, x_.data_ptr());
    y_memory_ = memory(y_desc, engine_, y_.data_ptr());
    // Wᵀ as oneDNN sees it: [in, out] with the strides of the stored [out, in].
    memory stored(memory::desc({in, out}, type, memory::format_tag::ba), engine_, weight_.data_ptr());
    packed_ = memory(plan.weights_desc(), engine_);
    dnnl::reorder(stored, packed_).execute(stream_, stored, packed_);
    stream_.wait();
  }
  std::string name() const override { return "oneDNN, packed weight"; }
  void run() override {
    product_.execute(stream_,
                     {{DNNL_ARG_SRC, x_memory_}, {DNNL_ARG_WEIGHTS, packed_}, {DNNL_ARG_DST, y_memory_}});
    stream_.wait();
  }
  at::Tensor result() const override { return y_; }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  at::Tensor x_, weight_, y_;
  memory x_memory_, y_memory_, packed_;
  dnnl::matmul product_;
};

}  // namespace

std::unique_ptr<GemmVariant> onednn_packed_gemm(const at::Tensor& x, const at::Tensor& weight,
                                                const at::Tensor& y) {
  if (x.scalar_type() != at::kFloat && x.scalar_type() != at::kBFloat16) return nullptr;
  try {
    return std::make_unique<PackedGemm>(x.contiguous(), weight.contiguous(), y);
  } catch (const dnnl::error&) {
    return nullptr;  // this processor has no product of this type
  }
}

#else

std::unique_ptr<GemmVariant> onednn_packed_gemm(const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  return nullptr;
}

#endif

}  // namespace msplora::detail
