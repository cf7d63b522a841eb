#include <ATen/ops/empty.h>
#include <memory>

#include "msplora/kernels/gemm.h"
#include "nn/dispatch.h"
#include "nn/packed_product.h"

namespace msplora::detail {
namespace {

template <typename T>
class KernelProduct : public PackedProduct {
 public:
  explicit KernelProduct(const MatrixView& matrix)
      : isa_(kernels::active_isa()), inner_(matrix.inner()), width_(matrix.width()) {
    packed_ = at::empty({kernels::packed_gemm_elements<T>(isa_, inner_, width_)}, matrix.weight.options());
    const int64_t stride = matrix.weight.size(1);
    const int64_t row = matrix.is_transposed ? stride : 1, column = matrix.is_transposed ? 1 : stride;
    kernels::pack_gemm<T>(
        {inner_, width_, row, column, isa_, data<T>(matrix.weight), data<T>(packed_), nullptr});
  }

  void run(const ProductCall& call) const override {
    kernels::PackedGemm<T> op;
    op.rows = call.rows;
    op.inner = inner_;
    op.width = width_;
    op.isa = isa_;
    op.x = static_cast<const T*>(call.x);
    op.packed = data<T>(packed_);
    op.bias = call.bias;
    op.factor = static_cast<const T*>(call.factor);
    op.add = call.add;
    op.y = static_cast<T*>(call.y);
    op.is_activated = call.activation != nullptr;
    if (op.is_activated) op.activation = *call.activation;
    op.derivative = static_cast<T*>(call.derivative);
    if (call.update != nullptr) {
      op.z = data<float>(call.update->z);
      op.rank = call.update->z.size(1);
      op.updates = call.update->parts.data();
      op.num_updates = static_cast<int64_t>(call.update->parts.size());
    }
    kernels::packed_gemm<T>(op);
  }
  int64_t bytes() const override { return static_cast<int64_t>(packed_.nbytes()); }

 private:
  kernels::Isa isa_;
  int64_t inner_, width_;
  at::Tensor packed_;
};

}  // namespace

bool suits_kernel_product(at::ScalarType dtype, int64_t inner) {
  if (dtype == at::kFloat) return kernels::prefers_packed_gemm<float>();
  // Pairs of bfloat16 are multiplied at once.
  return dtype == at::kBFloat16 && inner % 2 == 0 && kernels::prefers_packed_gemm<kernels::Bfloat16>();
}

std::unique_ptr<PackedProduct> make_kernel_product(const MatrixView& matrix) {
  if (matrix.weight.scalar_type() == at::kFloat) return std::make_unique<KernelProduct<float>>(matrix);
  return std::make_unique<KernelProduct<kernels::Bfloat16>>(matrix);
}

}  // namespace msplora::detail
