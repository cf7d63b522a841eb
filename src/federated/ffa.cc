// FFA-LoRA (Sun et al., arXiv 2403.12313): A is the same everywhere and stays, so the mean of B is exact.

#include <string>
#include <vector>

#include "federated/aggregators.h"

namespace msplora::detail {
namespace {

Combined combine_ffa(const OptionGroup&, const FactorPair& global, const std::vector<FactorPair>& pairs,
                     const std::vector<double>& weights) {
  return {{global.name, global.down, weighted_mean(ups_of(pairs), weights), global.scaling}, std::nullopt};
}

}  // namespace

AggregatorKind ffa_aggregator() {
  AggregatorKind kind;
  kind.name = "ffa";
  kind.traits = {.trains_down = false};
  kind.combine = combine_ffa;
  return kind;
}

}  // namespace msplora::detail
