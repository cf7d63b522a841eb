#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "msplora/nn/context.h"
#include "msplora/nn/linear.h"

/// DoRA (arXiv 2402.09353) as PEFT computes it:
///   n = ‖W + Σ s B A‖ of every row, outside the gradient
///   y = W x + b + (m/n - 1) ⊙ W x̃ + (m/n) ⊙ Σ s B A x̃,   x̃ = dropout(x)
/// The bias is not scaled.
namespace msplora::detail {

/// Sums of squares of the rows, [out], in float32 (float64 of a float64 weight).
at::Tensor row_squares(const at::Tensor& weight);

/// n, [out]. `weight_squares` are row_squares(weight): with them the dense sum is never formed, since
/// ‖w + b A‖² = ‖w‖² + b · (2 A w + A Aᵀ b).
at::Tensor row_norms(const at::Tensor& weight, const at::Tensor& weight_squares,
                     const std::vector<LowRankTerm>& terms);

/// DoRA's output out of y = W x + b + Σ s B A x̃. The terms have one dropout mask in common.
at::Tensor dora_output(const Linear& layer, const at::Tensor& x, const at::Tensor& y,
                       const ForwardContext& context, const at::Tensor& magnitude,
                       const at::Tensor& weight_squares, const std::vector<LowRankTerm>& terms);

}  // namespace msplora::detail
