#include "adapters/dora.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>
#include <utility>
#include <vector>

#include "adapters/initial.h"
#include "msplora/nn/functional.h"

namespace msplora::detail {
namespace {

/// The terms as one: down [R, in], and up [out, R] with the scalings in it.
std::pair<at::Tensor, at::Tensor> stacked(const std::vector<LowRankTerm>& terms) {
  std::vector<at::Tensor> downs, ups;
  for (const LowRankTerm& term : terms) {
    downs.push_back(term.down);
    ups.push_back(term.up * term.scaling);
  }
  return {at::cat(downs, 0), at::cat(ups, 1)};
}

}  // namespace

at::Tensor row_squares(const at::Tensor& weight) {
  const c10::NoGradGuard no_grad;
  return wide(weight.detach()).square().sum(1);
}

at::Tensor row_norms(const at::Tensor& weight, const at::Tensor& weight_squares,
                     const std::vector<LowRankTerm>& terms) {
  const c10::NoGradGuard no_grad;
  const auto [down, up] = stacked(terms);
  const at::Tensor cross = at::mm(weight.detach().to(down.scalar_type()), down.t());
  const at::Tensor own = at::mm(up, at::mm(down, down.t()));
  return (weight_squares + (up * (2.0 * cross + own)).sum(1)).clamp_min(0.0).sqrt();
}

at::Tensor RowNorms::of(const Weight& weight, const std::vector<LowRankTerm>& terms,
                        const LowRankTerm& factors) {
  const std::lock_guard lock(mutex_);
  const auto down_version = static_cast<uint32_t>(factors.down._version());
  const auto up_version = static_cast<uint32_t>(factors.up._version());
  if (!norms_.defined() || down_version != down_version_ || up_version != up_version_) {
    norms_ = row_norms(weight.values(), squares_, terms);
    down_version_ = down_version;
    up_version_ = up_version;
  }
  return norms_;
}

at::Tensor dora_output(const Linear& layer, const at::Tensor& x, const at::Tensor& y,
                       const ForwardContext& context, const at::Tensor& magnitude, const at::Tensor& norms,
                       const std::vector<LowRankTerm>& terms) {
  // m/n - 1 and not m/n: at m = n the output is y to the bit.
  const at::Tensor excess = (magnitude / norms - 1.0).to(y.scalar_type());
  const kernels::DropoutMask mask =
      dropout_mask(context, terms.front().dropout, terms.front().dropout_stream);
  if (mask.active()) {
    const auto [down, up] = stacked(terms);
    const at::Tensor product =
        adapted_linear(dropout(x, mask), layer.weight->values(), {}, down, up, {{0, down.size(0), {}}});
    return y + excess * product;
  }
  const at::Tensor product = layer.bias.defined() ? y - layer.bias.to(y.scalar_type()) : y;
  return y + excess * product;
}

}  // namespace msplora::detail
