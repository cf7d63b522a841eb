#pragma once

#include <memory>
#include <vector>

#include "federated/low_rank_algebra.h"
#include "msplora/federated/aggregator.h"

namespace msplora::detail {

std::unique_ptr<Aggregator> fedit_aggregator();
std::unique_ptr<Aggregator> ffa_aggregator();
std::unique_ptr<Aggregator> flora_aggregator();
std::unique_ptr<Aggregator> flexlora_aggregator();
std::unique_ptr<Aggregator> fedex_aggregator();
std::unique_ptr<Aggregator> lora_fair_aggregator(const FairOptions& options);

std::vector<at::Tensor> downs_of(const std::vector<FactorPair>& pairs);
std::vector<at::Tensor> ups_of(const std::vector<FactorPair>& pairs);

/// dW = sum of p_k s_k B_k A_k as one stack.
LowRank ideal_update(const std::vector<FactorPair>& pairs, const std::vector<double>& weights);

}  // namespace msplora::detail
