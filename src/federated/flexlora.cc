// FlexLoRA (Bai et al., arXiv 2402.11505): the best approximation of the exact sum of the clients' products.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <string>
#include <vector>

#include "federated/aggregators.h"

namespace msplora::detail {
namespace {

Combined combine_flexlora(const OptionGroup&, const FactorPair& global, const std::vector<FactorPair>& pairs,
                          const std::vector<double>& weights) {
  const LowRank best = truncated_svd(ideal_update(pairs, weights), global.rank()).product;
  FactorPair next{global.name, best.down, best.up / global.scaling, global.scaling};
  const int64_t missing = global.rank() - best.rank();
  if (missing > 0) {
    // Few clients of small ranks span less than the global rank. The rest keeps its A, so that it can be
    // trained again, and a B of zero.
    next.down = at::cat({next.down, global.down.slice(0, best.rank())}, 0);
    next.up = at::cat({next.up, at::zeros({next.up.size(0), missing}, next.up.options())}, 1);
  }
  return {std::move(next), std::nullopt};
}

}  // namespace

AggregatorKind flexlora_aggregator() {
  AggregatorKind kind;
  kind.name = "flexlora";
  kind.traits = {.mixed_ranks = true};
  kind.combine = combine_flexlora;
  return kind;
}

}  // namespace msplora::detail
