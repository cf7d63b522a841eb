#include "federated/adapter_pairs.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

namespace msplora::detail {
namespace {

const TrainableTensor* trainable_of(const Adapter& adapter, const at::Tensor& tensor) {
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.group == ParameterGroup::kAdapter && entry.tensor.is_same(tensor)) return &entry;
  }
  return nullptr;
}

/// "PATH.lora_B.weight" -> "PATH"; "PATH.lora_B.1.weight" -> "PATH.1", where 1 is a level.
std::string name_of(const std::string& up_name) {
  std::string name = up_name;
  for (const char* part : {".lora_B", ".weight"}) {
    const size_t at = name.rfind(part);
    if (at != std::string::npos) name.erase(at, std::string(part).size());
  }
  return name;
}

}  // namespace

std::vector<AdapterPair> pairs_of(const Adapter& adapter) {
  std::vector<AdapterPair> pairs;
  size_t covered = 0;
  for (size_t site = 0; site < adapter.sites().size(); ++site) {
    for (const LowRankTerm& term : adapter.terms(site)) {
      const auto known = std::find_if(pairs.begin(), pairs.end(),
                                      [&](const AdapterPair& pair) { return pair.up.is_same(term.up); });
      if (known != pairs.end()) {
        known->sites.push_back(site);
        continue;
      }
      const TrainableTensor *down = trainable_of(adapter, term.down), *up = trainable_of(adapter, term.up);
      if (down == nullptr || up == nullptr) continue;
      covered += 2;
      pairs.push_back({name_of(up->name), down->name, up->name, term.down, term.up, term.scaling, {site}});
    }
  }
  const auto count = static_cast<size_t>(
      std::count_if(adapter.trainable().begin(), adapter.trainable().end(),
                    [](const TrainableTensor& entry) { return entry.group == ParameterGroup::kAdapter; }));
  if (pairs.empty() || covered != count) {
    throw Error(
        ErrorCode::kConfig, "adapter.method",
        fmt::format("`{}` trains more than pairs of low-rank factors, which is all that the server can "
                    "combine",
                    adapter.config().method),
        "lora, or msplora with the aggregator fedit");
  }
  return pairs;
}

std::vector<NamedTensor> others_of(const Adapter& adapter) {
  std::vector<NamedTensor> others;
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.group != ParameterGroup::kAdapter) others.push_back({entry.name, entry.tensor.detach()});
  }
  return others;
}

FactorPair copy_of(const AdapterPair& pair, at::ScalarType dtype) {
  return {pair.name, pair.down.detach().to(dtype, /*non_blocking=*/false, /*copy=*/true),
          pair.up.detach().to(dtype, /*non_blocking=*/false, /*copy=*/true), pair.scaling};
}

FactorPair converted(const FactorPair& pair, at::ScalarType dtype) {
  return {pair.name, pair.down.to(dtype), pair.up.to(dtype), pair.scaling};
}

}  // namespace msplora::detail
