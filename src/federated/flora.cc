// FLoRA (Wang et al., arXiv 2409.05976): the exact sum of the clients' products, stacked, joins the base.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include <string>
#include <vector>

#include "federated/aggregators.h"

namespace msplora::detail {
namespace {

Combined combine_flora(const OptionGroup&, const FactorPair& global, const std::vector<FactorPair>& pairs,
                       const std::vector<double>& weights) {
  std::vector<at::Tensor> ups, downs;
  for (size_t k = 0; k < pairs.size(); ++k) {
    ups.push_back(pairs[k].up * pairs[k].scaling);
    // The weight stands once in each product; on both factors it would count twice.
    downs.push_back(pairs[k].down * weights[k]);
  }
  return {{global.name, global.down, at::zeros_like(global.up), global.scaling},
          FactorPair{global.name, at::cat(downs, 0), at::cat(ups, 1), 1.0}};
}

}  // namespace

AggregatorKind flora_aggregator() {
  AggregatorKind kind;
  kind.name = "flora";
  kind.traits = {.mixed_ranks = true, .restarts = true, .merges = true};
  kind.combine = combine_flora;
  return kind;
}

}  // namespace msplora::detail
