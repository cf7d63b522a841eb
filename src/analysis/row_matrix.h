#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "analysis/spectrum.h"

namespace msplora::analysis {

/// A matrix [out, in] that is made some rows at a time, in float64.
struct RowMatrix {
  int64_t out = 0, in = 0;
  std::function<at::Tensor(int64_t begin, int64_t end)> rows;

  double norm() const;                                 // Frobenius
  at::Tensor times(const at::Tensor& v) const;         // [in, k] -> [out, k]
  at::Tensor turned_times(const at::Tensor& u) const;  // of the transpose: [out, k] -> [in, k]
};

/// |Uᵀ M V| (Frobenius), u [out, i], v [in, j].
double projected_norm(const RowMatrix& matrix, const at::Tensor& u, const at::Tensor& v);

/// The first k singular directions, by subspace iteration with a Rayleigh-Ritz step (Halko, Martinsson and
/// Tropp 2011, algorithm 4.4), until no value moves by more than 1e-12 of the first. The start is always the
/// same.
Directions leading_directions(const RowMatrix& matrix, int64_t k);

}  // namespace msplora::analysis
