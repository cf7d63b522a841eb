// Aggregators that form the exact sum of the clients' products: FLoRA (Wang et al., arXiv 2409.05976), which
// adds it to the base, and FlexLoRA (Bai et al., arXiv 2402.11505), which gives back its best approximation.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "federated/aggregators.h"

namespace msplora::detail {
namespace {

class Flora : public Aggregator {
 public:
  AggregatorTraits traits() const override {
    AggregatorTraits traits;
    traits.mixed_ranks = traits.restarts = traits.merges = true;
    return traits;
  }

 protected:
  Combined combine(const FactorPair& global, const std::vector<FactorPair>& pairs,
                   const std::vector<double>& weights) const override {
    std::vector<at::Tensor> ups, downs;
    for (size_t k = 0; k < pairs.size(); ++k) {
      ups.push_back(pairs[k].up * pairs[k].scaling);
      // The weight stands once in each product; on both factors it would count twice.
      downs.push_back(pairs[k].down * weights[k]);
    }
    return {{global.name, global.down, at::zeros_like(global.up), global.scaling},
            FactorPair{global.name, at::cat(downs, 0), at::cat(ups, 1), 1.0}};
  }
};

class FlexLora : public Aggregator {
 public:
  AggregatorTraits traits() const override {
    AggregatorTraits traits;
    traits.mixed_ranks = true;
    return traits;
  }

 protected:
  Combined combine(const FactorPair& global, const std::vector<FactorPair>& pairs,
                   const std::vector<double>& weights) const override {
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
};

}  // namespace

std::unique_ptr<Aggregator> flora_aggregator() {
  return std::make_unique<Flora>();
}
std::unique_ptr<Aggregator> flexlora_aggregator() {
  return std::make_unique<FlexLora>();
}

}  // namespace msplora::detail
