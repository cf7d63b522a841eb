// FedEx-LoRA (Singhal et al., arXiv 2410.09432): averaged factors, and what averaging misses joins the base.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <string>
#include <vector>

#include "federated/aggregators.h"

namespace msplora::detail {
namespace {

// The residual is sum over all clients but the last of p_k (B_k - B)(A_k - A_last): since the p_k (B_k - B)
// sum to zero, any one matrix may be taken off every A_k, and taking A_last saves one client's rank.
Combined combine_fedex(const OptionGroup&, const FactorPair& global, const std::vector<FactorPair>& pairs,
                       const std::vector<double>& weights) {
  Combined result{mean_pair(global, pairs, weights),
                  FactorPair{global.name, global.down.slice(0, 0, 0), global.up.slice(1, 0, 0), 1.0}};
  std::vector<at::Tensor> ups, downs;
  for (size_t k = 0; k + 1 < pairs.size(); ++k) {
    ups.push_back((pairs[k].up - result.next.up) * (weights[k] * global.scaling));
    downs.push_back(pairs[k].down - pairs.back().down);
  }
  if (ups.empty()) return result;
  result.merged->up = at::cat(ups, 1);
  result.merged->down = at::cat(downs, 0);
  return result;
}

}  // namespace

AggregatorKind fedex_aggregator() {
  AggregatorKind kind;
  kind.name = "fedex";
  kind.traits = {.merges = true};
  kind.combine = combine_fedex;
  return kind;
}

}  // namespace msplora::detail
