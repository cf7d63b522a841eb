#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace msplora::detail {

/// The matrix up * down without forming it: up [m, R], down [R, n]. R may be 0; undefined tensors are zero.
struct LowRank {
  at::Tensor up, down;

  int64_t rank() const { return up.defined() ? up.size(1) : 0; }
};

/// a + scale * b, as a stack of rank R_a + R_b.
LowRank plus(const LowRank& a, const LowRank& b, double scale = 1.0);

/// Frobenius norm by two QR factorisations and an R x R core. Unlike the trace of Gram matrices it stays
/// exact to rounding when the parts cancel.
double frobenius_norm(const LowRank& matrix);

/// Sum of the products of the entries of a and b, through the R_a x R_b products of their factors.
double inner_product(const LowRank& a, const LowRank& b);

/// Singular value decomposition through two thin QR factorisations and an R x R core, O((m + n) R²): left
/// [m, k], values [k] falling, right [n, k], k = min(R, m, n).
struct ThinSvd {
  at::Tensor left, values, right;
};
ThinSvd thin_svd(const LowRank& matrix);

/// The best approximation of rank `rank` (at most the R of the matrix): up = U_r S_r, down = V_rᵀ (thin_svd).
/// `tail` is the norm of what is left out.
struct TruncatedSvd {
  LowRank product;
  double tail = 0.0;
};
TruncatedSvd truncated_svd(const LowRank& matrix, int64_t rank);

/// Sum of weights_k * tensors_k for weights that sum to 1, formed as x_0 + sum of weights_k (x_k - x_0):
/// equal tensors have exactly themselves as their mean.
at::Tensor weighted_mean(const std::vector<at::Tensor>& tensors, const std::vector<double>& weights);

}  // namespace msplora::detail
