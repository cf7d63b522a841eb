#include "analysis/spectrum.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_svd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace msplora::analysis {
namespace {

/// How many of the values hold `share` of the energy.
int64_t rank_of_share(const std::vector<double>& values, double energy, double share) {
  double sum = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    sum += values[i] * values[i];
    // Where all values are counted, rounding must not ask for one more.
    if (sum >= share * energy * (1.0 - 1e-12)) return static_cast<int64_t>(i) + 1;
  }
  return static_cast<int64_t>(values.size());
}

Directions no_directions(int64_t out, int64_t in) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  return {at::empty({out, 0}, options), at::empty({0}, options), at::empty({in, 0}, options)};
}

}  // namespace

Directions Directions::first(int64_t k) const {
  const int64_t kept = std::min(k, count());
  return {left.slice(1, 0, kept), values.slice(0, 0, kept), right.slice(1, 0, kept), norm,
          is_leading || kept < count()};
}

Directions without_noise(const msplora::detail::ThinSvd& svd) {
  const int64_t out = svd.left.size(0), in = svd.right.size(0);
  const at::Tensor values = svd.values.contiguous();
  const double* s = values.data_ptr<double>();
  const double bound = values.size(0) == 0 ? 0.0
                                           : std::numeric_limits<double>::epsilon() *
                                                 static_cast<double>(std::max(out, in)) * s[0];
  int64_t kept = 0;
  while (kept < values.size(0) && s[kept] > bound) ++kept;
  if (kept == 0) return no_directions(out, in);
  Directions directions{svd.left.slice(1, 0, kept), values.slice(0, 0, kept), svd.right.slice(1, 0, kept)};
  directions.norm = std::sqrt(directions.values.square().sum().item<double>());
  return directions;
}

Directions directions_of(const msplora::detail::LowRank& matrix, int64_t out, int64_t in) {
  if (matrix.rank() == 0) return no_directions(out, in);
  return without_noise(msplora::detail::thin_svd(matrix));
}

Directions directions_of(const at::Tensor& matrix) {
  const auto [u, s, v] = at::linalg_svd(matrix, /*full_matrices=*/false);
  return without_noise({u, s, v.t()});
}

Spectrum spectrum_of(const Directions& directions) {
  Spectrum spectrum;
  const at::Tensor kept = directions.values.contiguous();
  const double* s = kept.data_ptr<double>();
  spectrum.values.assign(s, s + kept.size(0));
  spectrum.is_leading = directions.is_leading;
  spectrum.norm = directions.norm;
  double sum = 0.0, fourth = 0.0;
  for (const double value : spectrum.values) {
    sum += value;
    fourth += value * value * value * value;
  }
  const double energy = directions.norm * directions.norm;
  const bool is_zero = spectrum.values.empty();
  if (!is_zero) spectrum.stable_rank = energy / (spectrum.values[0] * spectrum.values[0]);
  if (directions.is_leading) return spectrum;
  double entropy = 0.0;
  for (const double value : spectrum.values) entropy -= value / sum * std::log(value / sum);
  spectrum.effective_rank = is_zero ? 0.0 : std::exp(entropy);
  spectrum.participation = is_zero ? 0.0 : energy * energy / fourth;
  spectrum.rank_90 = rank_of_share(spectrum.values, energy, 0.90);
  spectrum.rank_99 = rank_of_share(spectrum.values, energy, 0.99);
  return spectrum;
}

}  // namespace msplora::analysis
