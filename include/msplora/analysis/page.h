#pragma once

#include "msplora/analysis/report.h"
#include "msplora/report/page.h"

namespace msplora::analysis {

/// The report as a page: what it comes to, then spectra, levels, layers beside layers, ranks, the base and
/// training, each figure with its definition and with what would count against the claim that it bears on.
/// Adapters with several levels have figures of their own, the others stand in them as dashed lines. Of very
/// many layers or modules a part is shown, and the page says so.
report::Page page_of(const Report& report);

}  // namespace msplora::analysis
