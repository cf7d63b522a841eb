#pragma once

#include <string>

#include "msplora/runs/compare.h"

namespace msplora {

/// The comparison as Markdown: scores, differences from the reference, warnings and failures.
std::string comparison_document(const ComparisonPlan& plan, const Comparison& comparison);

/// compare.md (the document), compare.csv (a line a row), compare-runs.csv (a line a run), compare.tex (the
/// scores as a table of LaTeX) and compare.json into the plan's directory.
void write_comparison(const ComparisonPlan& plan, const Comparison& comparison);

}  // namespace msplora
