#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "analysis/site_form.h"
#include "analysis/spectrum.h"
#include "msplora/analysis/report.h"

namespace msplora::analysis {

/// The leading directions of a site, which are compared with those of other sites.
struct SiteSpaces {
  Directions whole;
  std::vector<Directions> levels;  // of every level; without directions where it does not act
};

/// One site by itself. `inner` is [levels, levels]: the inner products of its levels (empty for updates
/// without factors); `spaces` gets its options.top leading directions.
SiteAnalysis analyze_site(const SiteForm& form, const at::Tensor& inner, const Options& options,
                          SiteSpaces& spaces);

/// Energies of levels out of their inner products: share e = <dW_k, dW> / |dW|², own o = |dW_k|² / Σ|dW_j|².
/// NaN for an update of zeros.
struct LevelEnergy {
  double share = 0.0, own = 0.0;
};
std::vector<LevelEnergy> level_energies(const at::Tensor& inner);

}  // namespace msplora::analysis
