#pragma once

#include <vector>

#include "federated/aggregator_list.h"
#include "msplora/federated/aggregator.h"
#include "nn/low_rank_algebra.h"

namespace msplora::detail {

#define MSPLORA_DECLARE_AGGREGATOR(NAME) AggregatorKind NAME##_aggregator();
MSPLORA_AGGREGATORS(MSPLORA_DECLARE_AGGREGATOR)
#undef MSPLORA_DECLARE_AGGREGATOR

/// A and B averaged: what several aggregators start from.
FactorPair mean_pair(const FactorPair& global, const std::vector<FactorPair>& pairs,
                     const std::vector<double>& weights);

std::vector<at::Tensor> downs_of(const std::vector<FactorPair>& pairs);
std::vector<at::Tensor> ups_of(const std::vector<FactorPair>& pairs);

/// dW = sum of p_k s_k B_k A_k as one stack.
LowRank ideal_update(const std::vector<FactorPair>& pairs, const std::vector<double>& weights);

}  // namespace msplora::detail
