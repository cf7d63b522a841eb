#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/tasks/evaluation.h"

namespace msplora {

/// Precision, recall, F1 and support of each class, their means, and the confusion matrix, by part of the
/// evaluation: {"labels": [...], "per_class": {NAME: {precision, recall, f1, support, predicted}},
/// "macro_average": {...}, "weighted_average": {...}, "confusion_matrix": [[...]]}, rows the true classes.
/// The parts stand side by side where there are several. Null for a regression.
nlohmann::ordered_json class_report(const Evaluation& evaluation, const std::vector<std::string>& labels);

/// The same as tables for people; the matrix of many classes is left out.
std::string class_report_text(const Evaluation& evaluation, const std::vector<std::string>& labels);

}  // namespace msplora
