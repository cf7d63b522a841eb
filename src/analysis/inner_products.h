#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "msplora/nn/linear.h"

namespace msplora::analysis {

/// Sums of products of the entries of all pairs of updates of one shape, [N, N] float64; an update is a sum
/// of terms, none is 0. Factors that several updates have in common are multiplied once:
/// <B A, B' A'> = Σ (BᵀB') ∘ (A A'ᵀ), with one Gram matrix of all different columns of B, one of all rows of
/// A.
at::Tensor inner_products(const std::vector<std::vector<LowRankTerm>>& updates);

/// Whether two terms are the same factors, and not equal ones.
bool same_factors(const LowRankTerm& a, const LowRankTerm& b);

}  // namespace msplora::analysis
