#pragma once

#include <string>
#include <vector>

#include "msplora/runs/report.h"
#include "msplora/runs/run_directory.h"
#include "msplora/tasks/evaluation.h"
#include "program.h"

namespace msplora {

/// Says how a run ended: as JSON, or in a line. Whether more may follow: the run is finished, and people read
/// it.
bool print_report(const RunReport& report, const CommonOptions& common);

/// Where the results are, one line each.
std::string closing_lines(const RunReport& report, const RunDirectory& directory);

/// Precision, recall and F1 of each class and the confusion matrix as tables; the matrix of many classes is
/// left out.
std::string class_report_text(const Evaluation& evaluation, const std::vector<std::string>& labels);

}  // namespace msplora
