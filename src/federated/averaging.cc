// Aggregators that average factors: FedIT (Zhang et al., arXiv 2305.05644), FFA-LoRA (Sun et al., arXiv
// 2403.12313) and FedEx-LoRA (Singhal et al., arXiv 2410.09432).
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <memory>
#include <optional>
#include <vector>

#include "federated/aggregators.h"

namespace msplora::detail {
namespace {

class FedIt : public Aggregator {
 public:
  AggregatorTraits traits() const override {
    AggregatorTraits traits;
    traits.only_lora = false;
    return traits;
  }

 protected:
  Combined combine(const FactorPair& global, const std::vector<FactorPair>& pairs,
                   const std::vector<double>& weights) const override {
    return {{global.name, weighted_mean(downs_of(pairs), weights), weighted_mean(ups_of(pairs), weights),
             global.scaling},
            std::nullopt};
  }
};

class Ffa : public Aggregator {
 public:
  AggregatorTraits traits() const override {
    AggregatorTraits traits;
    traits.trains_down = false;
    return traits;
  }

 protected:
  Combined combine(const FactorPair& global, const std::vector<FactorPair>& pairs,
                   const std::vector<double>& weights) const override {
    return {{global.name, global.down, weighted_mean(ups_of(pairs), weights), global.scaling}, std::nullopt};
  }
};

class FedEx : public Aggregator {
 public:
  AggregatorTraits traits() const override {
    AggregatorTraits traits;
    traits.merges = true;
    return traits;
  }

 protected:
  // The residual is sum over all clients but the last of p_k (B_k - B)(A_k - A_last): since the p_k (B_k - B)
  // sum to zero, any one matrix may be taken off every A_k, and taking A_last saves one client's rank.
  Combined combine(const FactorPair& global, const std::vector<FactorPair>& pairs,
                   const std::vector<double>& weights) const override {
    Combined result{{global.name, weighted_mean(downs_of(pairs), weights),
                     weighted_mean(ups_of(pairs), weights), global.scaling},
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
};

}  // namespace

std::unique_ptr<Aggregator> fedit_aggregator() {
  return std::make_unique<FedIt>();
}
std::unique_ptr<Aggregator> ffa_aggregator() {
  return std::make_unique<Ffa>();
}
std::unique_ptr<Aggregator> fedex_aggregator() {
  return std::make_unique<FedEx>();
}

}  // namespace msplora::detail
