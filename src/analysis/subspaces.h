#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "msplora/analysis/report.h"

/// Subspaces of R^d, each by an orthonormal basis [d, k] in float64.
namespace msplora::analysis {

/// Cosines of the principal angles between two subspaces, falling: the singular values of UᵀV (Björck and
/// Golub 1973).
std::vector<double> principal_cosines(const at::Tensor& u, const at::Tensor& v);

/// |UᵀV|² / min(i, j), the mean of the squared cosines; NaN where one of them is empty. LoRA, section 7.2.
Overlap overlap(const at::Tensor& u, const at::Tensor& v);

/// What overlap() is on average for subspaces drawn at random: max(i, j) / d.
double random_overlap(int64_t i, int64_t j, int64_t d);

/// Element (i - 1, j - 1) is the overlap of the first i vectors of u with the first j of v.
Grid overlap_grid(const at::Tensor& u, const at::Tensor& v);
Grid random_overlap_grid(int64_t i, int64_t j, int64_t d);

/// Of several subspaces, the share of all their basis vectors that lies in the best single space with as many
/// dimensions as the largest of them: the leading squared singular values of all bases side by side, over the
/// sum of them all. 1 for equal spaces, one over their number for orthogonal ones.
double common_share(const std::vector<at::Tensor>& bases);

}  // namespace msplora::analysis
