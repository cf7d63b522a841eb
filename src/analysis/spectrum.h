#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "msplora/analysis/report.h"
#include "nn/low_rank_algebra.h"

namespace msplora::analysis {

/// Singular vectors and values of a matrix [out, in], float64, without those that are noise of rounding:
/// values below eps max(out, in) S₁.
struct Directions {
  at::Tensor left, values, right;  // [out, k], [k] falling, [in, k]; k may be 0
  double norm = 0.0;               // of the whole matrix (Frobenius)
  bool is_leading = false;         // the matrix has more than these

  int64_t count() const { return values.size(0); }
  /// The first of them, at most k.
  Directions first(int64_t k) const;
};

/// Of a product of factors, through thin QR; the matrix itself is never formed.
Directions directions_of(const msplora::detail::LowRank& matrix, int64_t out, int64_t in);
/// Of a matrix that is there, by a dense decomposition.
Directions directions_of(const at::Tensor& matrix);
/// Leaves out what is noise beside the first value.
Directions without_noise(const msplora::detail::ThinSvd& svd);

Spectrum spectrum_of(const Directions& directions);

}  // namespace msplora::analysis
