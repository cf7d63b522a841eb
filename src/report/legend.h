#pragma once

#include <string>
#include <vector>

#include "report/frame.h"

namespace msplora::report {

/// What the plots without a legend of their own show, each name once.
std::vector<LegendEntry> shared_legend(const std::vector<Plot>& plots);

/// The entries as a list of a page; "" for none.
std::string legend_html(const std::vector<LegendEntry>& entries);

}  // namespace msplora::report
