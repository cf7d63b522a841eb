#pragma once

#include <string>
#include <vector>

#include "analysis/site_analysis.h"
#include "analysis/site_form.h"
#include "msplora/analysis/report.h"

namespace msplora::analysis {

/// All sites of an adapter and all comparisons of them.
struct Snapshot {
  std::vector<SiteAnalysis> sites;  // parallel to the forms
  std::vector<SiteSpaces> spaces;
  std::vector<StackAnalysis> stacks;
};
Snapshot snapshot_of(const std::vector<SiteForm>& forms, const std::vector<std::string>& levels,
                     const Options& options);

/// The parts of an update that layers do not share by construction: levels that are not shared, or the whole
/// where there are no levels.
std::vector<const LayerCosines*> own_parts(const StackAnalysis& stack);

/// Mean without NaN; NaN without anything.
double mean_of(const std::vector<double>& values);

}  // namespace msplora::analysis
