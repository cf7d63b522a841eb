#pragma once

#include <ATen/core/Tensor.h>

#include <mutex>
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

/// n of a frozen weight, formed again only when a factor was written to (as its tensor's version says): once
/// in an optimizer step, and once for all tokens that a model writes. Several threads may ask.
class RowNorms {
 public:
  explicit RowNorms(const Weight& weight) : squares_(row_squares(weight.values())) {}
  /// Under these terms, which are computed from `factors` and what never changes.
  at::Tensor of(const Weight& weight, const std::vector<LowRankTerm>& terms, const LowRankTerm& factors);

 private:
  std::mutex mutex_;
  at::Tensor squares_, norms_;
  uint32_t down_version_ = 0, up_version_ = 0;
};

/// DoRA's output out of y = W x + b + Σ s B A x̃. The terms have one dropout mask in common.
at::Tensor dora_output(const Linear& layer, const at::Tensor& x, const at::Tensor& y,
                       const ForwardContext& context, const at::Tensor& magnitude, const at::Tensor& norms,
                       const std::vector<LowRankTerm>& terms);

}  // namespace msplora::detail
