#include "nn/packed_linear.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <array>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "nn/packed_product.h"

namespace msplora::detail {
namespace {

const float* bias_data(const at::Tensor& bias) {
  return bias.defined() && bias.numel() > 0 ? bias.data_ptr<float>() : nullptr;
}

#ifdef MSPLORA_WITH_ONEDNN
constexpr bool kHasOneDnn = true;
#else
constexpr bool kHasOneDnn = false;
#endif

}  // namespace

struct PackedLinear::Impl {
  std::mutex mutex;  // of the pointers: products are made on use, and stay
  /// Without and with bias, which oneDNN's products are made for.
  std::array<std::unique_ptr<PackedProduct>, 2> forward;
  std::unique_ptr<PackedProduct> backward;
  bool is_kernel = true;  // made by make_kernel_product
};

c10::intrusive_ptr<PackedLinear> PackedLinear::make(std::vector<at::Tensor> weights) {
  int64_t elements = 0;
  int64_t out = 0;
  for (const at::Tensor& weight : weights) {
    const bool has_type = weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kBFloat16;
    if (!has_type || !weight.is_cpu() || !weight.is_contiguous()) return {};
    elements += weight.numel();
    out += weight.size(0);
  }
  const at::ScalarType dtype = weights.front().scalar_type();
  const bool suits_kernels =
      suits_kernel_product(dtype, weights.front().size(1)) && suits_kernel_product(dtype, out);
  if (elements < kSmallest || !(suits_kernels || kHasOneDnn)) return {};
  auto impl = std::make_unique<Impl>();
  impl->is_kernel = suits_kernels;
  return c10::intrusive_ptr<PackedLinear>::reclaim(new PackedLinear(std::move(weights), std::move(impl)));
}

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

int64_t PackedLinear::rows_at_a_time() const {
  constexpr int64_t kInCache = 1024, kMost = 4096;
  return impl_->is_kernel ? kMost : kInCache;
}

const PackedProduct& PackedLinear::product(bool is_transposed, bool for_bias) const {
  const std::lock_guard lock(impl_->mutex);
  auto& product = is_transposed ? impl_->backward : impl_->forward[for_bias ? 1 : 0];
  if (!product) {
    const MatrixView matrix{whole(), is_transposed};
    product = impl_->is_kernel ? make_kernel_product(matrix) : make_onednn_product(matrix, for_bias);
  }
  return *product;
}

void PackedLinear::run(const at::Tensor& x, bool is_transposed, ProductCall call) const {
  call.x = x.data_ptr();
  call.rows = x.size(0);
  product(is_transposed, call.bias != nullptr && !impl_->is_kernel).run(call);
}

void PackedLinear::forward_into(const at::Tensor& x, const at::Tensor& bias, const at::Tensor& y,
                                const LowRankSum* update) const {
  ProductCall call;
  call.bias = bias_data(bias);
  call.y = y.data_ptr();
  call.update = update;
  run(x, /*is_transposed=*/false, call);
}

void PackedLinear::activated_into(const at::Tensor& x, const at::Tensor& bias, kernels::Activation activation,
                                  const at::Tensor& y, const at::Tensor& derivative) const {
  ProductCall call;
  call.bias = bias_data(bias);
  call.y = y.data_ptr();
  call.activation = &activation;
  if (derivative.defined()) call.derivative = derivative.data_ptr();
  run(x, /*is_transposed=*/false, call);
}

void PackedLinear::backward_into(const at::Tensor& dy, const at::Tensor& dx, bool add) const {
  ProductCall call;
  call.y = dx.data_ptr();
  call.add = add;
  run(dy, /*is_transposed=*/true, call);
}

void PackedLinear::backward_times(const at::Tensor& dy, const at::Tensor& factor,
                                  const at::Tensor& dx) const {
  ProductCall call;
  call.y = dx.data_ptr();
  call.factor = factor.data_ptr();
  run(dy, /*is_transposed=*/true, call);
}

int64_t PackedLinear::packed_bytes() const {
  const std::lock_guard lock(impl_->mutex);
  int64_t bytes = impl_->backward ? impl_->backward->bytes() : 0;
  for (const auto& product : impl_->forward) bytes += product ? product->bytes() : 0;
  return bytes;
}

at::Tensor PackedLinear::forward(const at::Tensor& x, const at::Tensor& bias,
                                 const LowRankSum* update) const {
  const at::Tensor y = at::empty({x.size(0), out_}, x.options());
  forward_into(x, bias, y, update);
  return y;
}

bool PackedLinear::adds_updates() const {
  return impl_->is_kernel;
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

c10::intrusive_ptr<PackedLinear> KeptProduct::of(const std::vector<at::Tensor>& weights) {
  const std::lock_guard lock(mutex_);
  if (!kept_ || !kept_->is_of(weights)) kept_ = PackedLinear::make(weights);
  return kept_;
}

}  // namespace msplora::detail
