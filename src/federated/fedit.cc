// FedIT (Zhang et al., arXiv 2305.05644): factors averaged each for itself.

#include <string>
#include <vector>

#include "federated/aggregators.h"

namespace msplora::detail {
namespace {

Combined combine_fedit(const OptionGroup&, const FactorPair& global, const std::vector<FactorPair>& pairs,
                       const std::vector<double>& weights) {
  return {mean_pair(global, pairs, weights), std::nullopt};
}

}  // namespace

AggregatorKind fedit_aggregator() {
  AggregatorKind kind;
  kind.name = "fedit";
  kind.traits = {.only_lora = false};
  kind.combine = combine_fedit;
  return kind;
}

}  // namespace msplora::detail
