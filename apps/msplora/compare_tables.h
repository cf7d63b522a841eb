#pragma once

#include <string>

#include "msplora/report/plots.h"
#include "msplora/runs/compare.h"

namespace msplora {

/// The comparison as Markdown: scores, differences from the reference, warnings and failures.
std::string comparison_document(const ComparisonPlan& plan, const Comparison& comparison);

/// Score against parameters, with the methods that no other beats in both. Those without parameters of their
/// own are lines.
report::Scatter comparison_picture(const ComparisonPlan& plan, const Comparison& comparison);

/// compare.md (the document), compare.csv (a line a row), compare-runs.csv (a line a run), compare.tex (the
/// scores as a table of LaTeX), compare.svg (the picture) and compare.json into the plan's directory.
void write_comparison(const ComparisonPlan& plan, const Comparison& comparison);

}  // namespace msplora
