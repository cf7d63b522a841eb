#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/row_matrix.h"
#include "msplora/adapters/adapter.h"
#include "msplora/analysis/analyze.h"

namespace msplora::analysis {

/// The change of one site, as the analysis reads it: low-rank terms by level, and where they are not all of
/// it, the rows of the whole.
struct SiteForm {
  Site site;
  std::vector<std::vector<LowRankTerm>>
      levels;                      // of each level of the adapter; no terms where it does not act
  std::optional<RowMatrix> whole;  // unset where the terms are the whole change
  std::optional<RowMatrix> base;   // W0, where it is at hand
  WeightScaling scaling;           // see Adapter::weight_scaling

  std::vector<LowRankTerm> terms() const;  // of all levels
};

/// One for each site that the adapter changes. `notes` gets what had to be left out. Throws Error{kUsage}
/// naming the method and the reason where its change cannot be read (bitfit, none), or not without a base.
std::vector<SiteForm> forms_of(const Adapter& adapter, const BaseWeights* base,
                               std::vector<std::string>& notes);

/// Terms as one pair of float64 factors, scalings in `up`.
msplora::detail::LowRank stacked(const std::vector<LowRankTerm>& terms);

}  // namespace msplora::analysis
