#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace msplora::detail {

/// Factors of `n`, none above 16 unless it is prime: as few as possible, of those the ones with the smallest
/// sum (the size of a tensor train grows with it), largest first. 768 gives 12, 8, 8.
std::vector<int64_t> small_factors(int64_t n);

/// How many leading factors have the product `first`, when the others have the product `second`; 0: none do.
size_t find_cut(const std::vector<int64_t>& factors, int64_t first, int64_t second);

/// Shapes of the cores of a tensor train of uniform rank: r_{k-1} x n_k x r_k, with 1 at both ends.
std::vector<std::vector<int64_t>> core_shapes(const std::vector<int64_t>& factors, int64_t rank);

/// The two sides of a train cut after `cut` cores, so that left times right is the tensor as a matrix:
/// [n_1 ... n_cut, r] and [r, n_{cut+1} ... n_D], indices in row-major order. Differentiable. A product costs
/// 2 r^2 times the longer side of its result, so the whole about 2 r^2 (rows + columns).
struct TrainSides {
  at::Tensor left, right;
};
TrainSides sides_at_cut(const std::vector<at::Tensor>& cores, size_t cut);

/// Cores whose tensor is nearest, step by step, to `tensor` (numel = product of the factors, row-major):
/// truncated singular value decompositions from the left, in float64 (TT-SVD, Oseledets 2011). Where a bond
/// is narrower than `rank`, the rest of the left core keeps what `filler` holds and meets zeros on its right,
/// so that it can be trained but adds nothing.
std::vector<at::Tensor> tensor_train_svd(const at::Tensor& tensor, const std::vector<int64_t>& factors,
                                         int64_t rank, const std::vector<at::Tensor>& filler);

}  // namespace msplora::detail
