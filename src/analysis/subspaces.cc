#include "analysis/subspaces.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cmath>

namespace msplora::analysis {

std::vector<double> principal_cosines(const at::Tensor& u, const at::Tensor& v) {
  if (u.size(1) == 0 || v.size(1) == 0) return {};
  const at::Tensor values = at::linalg_svdvals(at::mm(u.t(), v)).clamp_max(1.0).contiguous();
  const double* cosines = values.data_ptr<double>();
  return {cosines, cosines + values.size(0)};
}

double random_overlap(int64_t i, int64_t j, int64_t d) {
  return static_cast<double>(std::max(i, j)) / static_cast<double>(d);
}

Overlap overlap(const at::Tensor& u, const at::Tensor& v) {
  const int64_t i = u.size(1), j = v.size(1);
  if (i == 0 || j == 0) return {NAN, NAN};
  const double sum = at::mm(u.t(), v).square().sum().item<double>();
  return {sum / static_cast<double>(std::min(i, j)), random_overlap(i, j, u.size(0))};
}

Grid overlap_grid(const at::Tensor& u, const at::Tensor& v) {
  const int64_t rows = u.size(1), columns = v.size(1);
  Grid grid{static_cast<size_t>(rows), static_cast<size_t>(columns), {}};
  if (rows == 0 || columns == 0) return grid;
  const at::Tensor sums = at::mm(u.t(), v).square().cumsum(0).cumsum(1).contiguous();
  const double* values = sums.data_ptr<double>();
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j)
      grid.values.push_back(values[i * columns + j] / static_cast<double>(std::min(i, j) + 1));
  }
  return grid;
}

Grid random_overlap_grid(int64_t i, int64_t j, int64_t d) {
  Grid grid{static_cast<size_t>(i), static_cast<size_t>(j), {}};
  for (int64_t row = 1; row <= i; ++row) {
    for (int64_t column = 1; column <= j; ++column) grid.values.push_back(random_overlap(row, column, d));
  }
  return grid;
}

double common_share(const std::vector<at::Tensor>& bases) {
  int64_t largest = 0;
  for (const at::Tensor& basis : bases) largest = std::max(largest, basis.size(1));
  if (largest == 0) return NAN;
  const at::Tensor side_by_side = at::cat(bases, 1);
  // Rising; the trace is the number of vectors.
  const at::Tensor squares = at::linalg_eigvalsh(at::mm(side_by_side.t(), side_by_side));
  const int64_t count = squares.size(0), kept = std::min(largest, side_by_side.size(0));
  return squares.slice(0, count - std::min(kept, count)).sum().item<double>() / static_cast<double>(count);
}

}  // namespace msplora::analysis
