#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "msplora/analysis/report.h"

namespace msplora::analysis {

/// The report as it is: names of fields are those of report.h, a grid is an array of rows, what is not known
/// and NaN are null.
nlohmann::ordered_json to_json(const Report& report);

/// A file name and its content.
using CsvFile = std::pair<std::string, std::string>;
/// The report as tables with a header, for other programs: parts.csv (each site's whole, levels and low-rank
/// part), values.csv (singular values), layers.csv (pairs of layers), levels.csv (pairs of levels),
/// curves.csv, findings.csv. Tables without rows are left out.
std::vector<CsvFile> to_csv(const Report& report);

}  // namespace msplora::analysis
