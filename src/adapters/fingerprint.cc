#include "msplora/adapters/fingerprint.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <c10/util/BFloat16.h>
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "adapters/base_parameters.h"
#include "msplora/adapters/adapter.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

constexpr int64_t kSamples = 64;

/// The values at these places of the parameter's numbers in a row.
at::Tensor values_at(const Parameter& parameter, const at::Tensor& places) {
  if (parameter.tensor().defined())
    return parameter.tensor().detach().reshape({-1}).index_select(0, places.to(parameter.tensor().device()));
  const FrozenWeight& weight = *parameter.weight->frozen();
  const at::Tensor rows = places.div(weight.in_features(), "floor");
  const at::Tensor columns = places.remainder(weight.in_features());
  return weight.gather(rows).gather(1, columns.unsqueeze(1)).squeeze(1);
}

uint64_t hash_values(uint64_t hash, const Parameter& parameter) {
  const int64_t count = std::min(parameter.numel(), kSamples);
  if (count == 0) return hash;
  std::vector<int64_t> places;
  for (int64_t i = 0; i < count; ++i)
    places.push_back(count == 1 ? 0 : (parameter.numel() - 1) * i / (count - 1));
  const at::Tensor sample = values_at(parameter, at::tensor(places, at::kLong))
                                .to(at::kCPU, at::kFloat)
                                .to(at::kBFloat16)
                                .contiguous();
  const auto* values = sample.data_ptr<at::BFloat16>();
  for (int64_t i = 0; i < count; ++i) hash = mix_seed(hash, values[i].x);
  return hash;
}

}  // namespace

uint64_t fingerprint(const std::vector<Parameter>& parameters, const std::vector<std::string>& head_modules) {
  std::map<std::string, const Parameter*> sorted;
  for (const Parameter& parameter : parameters) {
    if (!at::isFloatingType(parameter.dtype()) || detail::lies_in(parameter.name, head_modules)) continue;
    sorted[parameter.name] = &parameter;
  }
  uint64_t hash = hash_name("msplora base");
  for (const auto& [name, parameter] : sorted) {
    hash = mix_seed(hash, hash_name(name));
    for (const int64_t size : parameter->sizes()) hash = mix_seed(hash, static_cast<uint64_t>(size));
    hash = hash_values(hash, *parameter);
  }
  return hash == 0 ? 1 : hash;
}

uint64_t run_fingerprint(const AdapterTarget& target) {
  if (target.base_fingerprint == 0) return 0;
  return mix_seed(target.base_fingerprint, hash_name(target.base_computation.dump()));
}

}  // namespace msplora
