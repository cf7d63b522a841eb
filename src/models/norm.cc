#include "models/norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

namespace msplora {

using Init = ParameterStore::Init;

Norm::Norm(const NormSpec& spec, const std::string& prefix, int64_t width, ParameterStore& store,
           ParameterStore::Role role)
    : spec_(spec), path_(prefix + spec.name) {
  if (!spec) return;
  const bool is_plus_one = spec.kind == NormKind::kRmsPlusOne;
  weight_ = store.take(path_ + ".weight", {width}, role, is_plus_one ? Init::kZero : Init::kOne);
  if (spec.kind != NormKind::kLayer) return;
  bias_ = spec.has_bias ? store.take(path_ + ".bias", {width}, role, Init::kZero) : at::zeros_like(weight_);
}

at::Tensor Norm::scale() const {
  return spec_.kind == NormKind::kRmsPlusOne ? weight_ + 1.0 : weight_;
}

at::Tensor Norm::operator()(const at::Tensor& x) const {
  switch (spec_.kind) {
    case NormKind::kNone:
      return x;
    case NormKind::kLayer:
      return residual_layer_norm(x, {}, weight_, bias_, spec_.eps, {});
    case NormKind::kRms:
    case NormKind::kRmsPlusOne:
      return residual_rms_norm(x, {}, scale(), spec_.eps).normed;
  }
  return x;
}

NormedSum Norm::of_sum(const at::Tensor& x, const at::Tensor& residual) const {
  if (spec_.kind == NormKind::kRms || spec_.kind == NormKind::kRmsPlusOne)
    return residual_rms_norm(x, residual, scale(), spec_.eps);
  const at::Tensor sum = residual.defined() ? x + residual : x;
  return {(*this)(sum), sum};
}

at::Tensor Norm::of_dropped_sum(const at::Tensor& y, const at::Tensor& residual,
                                const kernels::DropoutMask& mask) const {
  if (spec_.kind == NormKind::kLayer)
    return residual_layer_norm(y, residual, weight_, bias_, spec_.eps, mask);
  return of_sum(dropout(y, mask), residual).normed;
}

void Norm::append_parameters(std::vector<Parameter>& parameters) const {
  if (weight_.defined()) parameters.push_back({path_ + ".weight", weight_});
  if (bias_.defined() && spec_.has_bias) parameters.push_back({path_ + ".bias", bias_});
}

}  // namespace msplora
