#include "nn/packed_linear.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#ifdef MSPLORA_WITH_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
#endif

namespace msplora::detail {

#ifdef MSPLORA_WITH_ONEDNN
namespace {

using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// Working memory of the product that runs, one for each thread instead of one for each layer.
void* scratchpad(size_t bytes) {
  thread_local std::vector<char> buffer;
  constexpr size_t kAlignment = 64;
  if (buffer.size() < bytes + kAlignment) buffer.resize(bytes + kAlignment);
  void* start = buffer.data();
  size_t room = buffer.size();
  return std::align(kAlignment, bytes, start, room);
}

memory::data_type type_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 ? memory::data_type::bf16 : memory::data_type::f32;
}

}  // namespace

// One direction of a packed layer: [T, inner] times [inner, width].
class PackedProduct {
 public:
  // `plain` describes the stored weight as [inner, width].
  PackedProduct(memory::desc plain, const void* weight, memory::data_type type, bool with_bias)
      : inner_(plain.dims()[0]), width_(plain.dims()[1]), type_(type), with_bias_(with_bias) {
    // The layout is the one that whole blocks want; all others use it too.
    const memory::desc any({inner_, width_}, type, memory::format_tag::any);
    const dnnl::matmul::primitive_desc typical = describe(kBlock, any, /*add=*/false);
    memory stored(plain, engine(), const_cast<void*>(weight));
    packed_ = memory(typical.weights_desc(), engine());
    dnnl::stream stream(engine());
    dnnl::reorder(stored, packed_).execute(stream, stored, packed_);
    stream.wait();
  }

  // Batches come in many lengths, and each length needs a primitive of its own, so rows pass in blocks of few
  // lengths, long ones first: each call costs a start of all threads.
  void run(const void* x, int64_t rows, const void* bias, void* y, bool add = false) {
    const size_t element = memory::data_type_size(type_);
    const auto* from = static_cast<const char*>(x);
    auto* to = static_cast<char*>(y);
    const size_t row_in = element * static_cast<size_t>(inner_),
                 row_out = element * static_cast<size_t>(width_);
    while (rows >= kStep) {
      const int64_t count = block_rows(rows);
      run_block(from, count, bias, to, add);
      from += row_in * static_cast<size_t>(count);
      to += row_out * static_cast<size_t>(count);
      rows -= count;
    }
    if (rows == 0) return;
    const auto rest = static_cast<size_t>(rows);
    std::vector<char> padded_in(row_in * kStep), padded_out(row_out * kStep);
    std::memcpy(padded_in.data(), from, row_in * rest);
    if (add) std::memcpy(padded_out.data(), to, row_out * rest);
    run_block(padded_in.data(), kStep, bias, padded_out.data(), add);
    std::memcpy(to, padded_out.data(), row_out * rest);
  }

  int64_t bytes() const { return static_cast<int64_t>(packed_.get_desc().get_size()); }

 private:
  static constexpr int64_t kBlock = 512, kStep = 64;

  // Powers of two above kBlock, then a multiple of kStep; less is padded to kStep.
  static int64_t block_rows(int64_t rows) {
    for (const int64_t block : {4 * kBlock, 2 * kBlock, kBlock}) {
      if (rows >= block) return block;
    }
    return rows / kStep * kStep;
  }

  void run_block(const void* x, int64_t rows, const void* bias, void* y, bool add) {
    const Primitive& primitive = primitive_for(rows, add);
    std::unordered_map<int, memory> arguments = {
        {DNNL_ARG_SRC, memory(rows_desc(rows, inner_), engine(), const_cast<void*>(x))},
        {DNNL_ARG_WEIGHTS, packed_},
        {DNNL_ARG_DST, memory(rows_desc(rows, width_), engine(), y)},
        {DNNL_ARG_SCRATCHPAD,
         memory(primitive.scratchpad, engine(), scratchpad(primitive.scratchpad.get_size()))}};
    if (with_bias_) arguments.emplace(DNNL_ARG_BIAS, memory(bias_desc(), engine(), const_cast<void*>(bias)));
    dnnl::stream stream(engine());
    primitive.product.execute(stream, arguments);
    stream.wait();
  }

  memory::desc rows_desc(int64_t rows, int64_t columns) const {
    return {{rows, columns}, type_, memory::format_tag::ab};
  }
  memory::desc bias_desc() const { return {{1, width_}, memory::data_type::f32, memory::format_tag::ab}; }

  dnnl::matmul::primitive_desc describe(int64_t rows, const memory::desc& weights, bool add) const {
    const memory::desc x = rows_desc(rows, inner_), y = rows_desc(rows, width_);
    dnnl::primitive_attr attributes;
    if (add) {
      dnnl::post_ops onto;
      onto.append_sum(1.0f);
      attributes.set_post_ops(onto);
    }
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
    if (with_bias_) return {engine(), x, weights, bias_desc(), y, attributes};
    return {engine(), x, weights, y, attributes};
#else
    const dnnl::matmul::desc op =
        with_bias_ ? dnnl::matmul::desc(x, weights, bias_desc(), y) : dnnl::matmul::desc(x, weights, y);
    return {op, attributes, engine()};
#endif
  }

  struct Primitive {
    dnnl::matmul product;
    memory::desc scratchpad;
  };

  const Primitive& primitive_for(int64_t rows, bool add) {
    const auto found = primitives_.find({rows, add});
    if (found != primitives_.end()) return found->second;
    const dnnl::matmul::primitive_desc description = describe(rows, packed_.get_desc(), add);
    Primitive made{dnnl::matmul(description), description.scratchpad_desc()};
    return primitives_.emplace(std::pair(rows, add), std::move(made)).first->second;
  }

  int64_t inner_, width_;
  memory::data_type type_;
  bool with_bias_;
  memory packed_;
  std::map<std::pair<int64_t, bool>, Primitive> primitives_;
};

struct PackedLinear::Impl {
  std::mutex mutex;                                       // products are made and kept on use
  std::array<std::unique_ptr<PackedProduct>, 2> forward;  // without and with bias
  std::unique_ptr<PackedProduct> backward;
};

c10::intrusive_ptr<PackedLinear> PackedLinear::make(std::vector<at::Tensor> weights) {
  int64_t elements = 0;
  for (const at::Tensor& weight : weights) {
    const bool has_type = weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kBFloat16;
    if (!has_type || !weight.is_cpu() || !weight.is_contiguous()) return {};
    elements += weight.numel();
  }
  if (elements < kSmallest) return {};
  return c10::intrusive_ptr<PackedLinear>::reclaim(
      new PackedLinear(std::move(weights), std::make_unique<Impl>()));
}

void PackedLinear::forward_into(const at::Tensor& x, const at::Tensor& bias, const at::Tensor& y) const {
  const bool has_bias = bias.defined() && bias.numel() > 0;
  const std::lock_guard lock(impl_->mutex);
  auto& product = impl_->forward[has_bias ? 1 : 0];
  if (!product) {
    const at::Tensor weight = whole();
    const memory::desc plain({in_, out_}, type_of(weight), memory::format_tag::ba);
    product = std::make_unique<PackedProduct>(plain, weight.data_ptr(), type_of(weight), has_bias);
  }
  product->run(x.data_ptr(), x.size(0), has_bias ? bias.data_ptr() : nullptr, y.data_ptr());
}

void PackedLinear::backward_into(const at::Tensor& dy, const at::Tensor& dx, bool add) const {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->backward) {
    const at::Tensor weight = whole();
    const memory::desc plain({out_, in_}, type_of(weight), memory::format_tag::ab);
    impl_->backward = std::make_unique<PackedProduct>(plain, weight.data_ptr(), type_of(weight), false);
  }
  impl_->backward->run(dy.data_ptr(), dy.size(0), nullptr, dx.data_ptr(), add);
}

int64_t PackedLinear::packed_bytes() const {
  int64_t bytes = impl_->backward ? impl_->backward->bytes() : 0;
  for (const auto& product : impl_->forward) bytes += product ? product->bytes() : 0;
  return bytes;
}

#else

struct PackedLinear::Impl {};

c10::intrusive_ptr<PackedLinear> PackedLinear::make(std::vector<at::Tensor>) {
  return {};
}
void PackedLinear::forward_into(const at::Tensor&, const at::Tensor&, const at::Tensor&) const {}
void PackedLinear::backward_into(const at::Tensor&, const at::Tensor&, bool) const {}
int64_t PackedLinear::packed_bytes() const {
  return 0;
}

#endif

PackedLinear::PackedLinear(std::vector<at::Tensor> weights, std::unique_ptr<Impl> impl)
    : weights_(std::move(weights)), in_(weights_.front().size(1)), impl_(std::move(impl)) {
  for (const at::Tensor& weight : weights_) {
    versions_.push_back(static_cast<uint32_t>(weight._version()));
    out_ += weight.size(0);
  }
}

PackedLinear::~PackedLinear() = default;

at::Tensor PackedLinear::whole() const {
  return weights_.size() == 1 ? weights_[0].detach() : at::cat(weights_, 0).detach();
}

at::Tensor PackedLinear::forward(const at::Tensor& x, const at::Tensor& bias) const {
  const at::Tensor y = at::empty({x.size(0), out_}, x.options());
  forward_into(x, bias, y);
  return y;
}

at::Tensor PackedLinear::backward(const at::Tensor& dy) const {
  const at::Tensor dx = at::empty({dy.size(0), in_}, dy.options());
  backward_into(dy, dx);
  return dx;
}

at::Tensor PackedLinear::backward_onto(const at::Tensor& dy, const at::Tensor& others) const {
  if (!others.defined()) return backward(dy);
  const at::Tensor dx = others.contiguous();
  backward_into(dy, dx, /*add=*/true);
  return dx;
}

bool PackedLinear::is_of(const std::vector<at::Tensor>& weights) const {
  if (weights.size() != weights_.size()) return false;
  for (size_t i = 0; i < weights.size(); ++i) {
    const bool is_same =
        weights[i].is_same(weights_[i]) && static_cast<uint32_t>(weights[i]._version()) == versions_[i];
    if (!is_same) return false;
  }
  return true;
}

}  // namespace msplora::detail
