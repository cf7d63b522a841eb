#include "class_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "program.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kShownClasses = 20;  // a wider matrix does not fit a screen

struct ClassScores {
  double precision = 0, recall = 0, f1 = 0;
};

ClassScores scores_of(const ConfusionMatrix& matrix, int64_t label) {
  return {matrix.precision(label), matrix.recall(label), matrix.f1(label)};
}

/// Mean over the classes that occur, each counted once or by its examples.
ClassScores average(const ConfusionMatrix& matrix, bool is_weighted) {
  ClassScores sum;
  double total = 0;
  for (int64_t k = 0; k < matrix.classes(); ++k) {
    if (matrix.support(k) + matrix.predicted(k) == 0) continue;
    const double weight = is_weighted ? static_cast<double>(matrix.support(k)) : 1.0;
    const ClassScores scores = scores_of(matrix, k);
    sum.precision += weight * scores.precision;
    sum.recall += weight * scores.recall;
    sum.f1 += weight * scores.f1;
    total += weight;
  }
  if (total == 0) return {};
  return {sum.precision / total, sum.recall / total, sum.f1 / total};
}

Json to_json(const ClassScores& scores) {
  return {{"precision", scores.precision}, {"recall", scores.recall}, {"f1", scores.f1}};
}

Json report_of(const ConfusionMatrix& matrix, const std::vector<std::string>& labels) {
  Json per_class = Json::object(), counts = Json::array();
  for (int64_t k = 0; k < matrix.classes(); ++k) {
    Json& entry = per_class[labels.at(static_cast<size_t>(k))] = to_json(scores_of(matrix, k));
    entry["support"] = matrix.support(k);
    entry["predicted"] = matrix.predicted(k);
    Json row = Json::array();
    for (int64_t prediction = 0; prediction < matrix.classes(); ++prediction)
      row.push_back(matrix.count(k, prediction));
    counts.push_back(std::move(row));
  }
  return {{"labels", labels},
          {"per_class", std::move(per_class)},
          {"macro_average", to_json(average(matrix, false))},
          {"weighted_average", to_json(average(matrix, true))},
          {"confusion_matrix", std::move(counts)}};
}

std::vector<std::string> cells_of(const std::string& name, const ClassScores& scores, int64_t support,
                                  const std::string& predicted) {
  return {name,
          fmt::format("{:.4f}", scores.precision),
          fmt::format("{:.4f}", scores.recall),
          fmt::format("{:.4f}", scores.f1),
          std::to_string(support),
          predicted};
}

std::string scores_text(const ConfusionMatrix& matrix, const std::vector<std::string>& labels) {
  TextTable table({"class", "precision", "recall", "f1", "support", "predicted"},
                  {false, true, true, true, true, true});
  for (int64_t k = 0; k < matrix.classes(); ++k) {
    table.add(cells_of(labels.at(static_cast<size_t>(k)), scores_of(matrix, k), matrix.support(k),
                       std::to_string(matrix.predicted(k))));
  }
  table.add(cells_of("macro average", average(matrix, false), matrix.total(), ""));
  table.add(cells_of("weighted average", average(matrix, true), matrix.total(), ""));
  return table.text("  ");
}

std::string matrix_text(const ConfusionMatrix& matrix, const std::vector<std::string>& labels) {
  if (matrix.classes() > kShownClasses) return {};
  std::vector<std::string> header = {"true \\ predicted"};
  header.insert(header.end(), labels.begin(), labels.end());
  std::vector<bool> right(header.size(), true);
  right.front() = false;
  TextTable table(header, right);
  for (int64_t target = 0; target < matrix.classes(); ++target) {
    std::vector<std::string> row = {labels.at(static_cast<size_t>(target))};
    for (int64_t prediction = 0; prediction < matrix.classes(); ++prediction)
      row.push_back(std::to_string(matrix.count(target, prediction)));
    table.add(std::move(row));
  }
  return "\n" + table.text("  ");
}

}  // namespace

Json class_report(const Evaluation& evaluation, const std::vector<std::string>& labels) {
  if (evaluation.confusion.empty()) return nullptr;
  if (evaluation.confusion.size() == 1) return report_of(evaluation.confusion.front().second, labels);
  Json parts = Json::object();
  for (const auto& [part, matrix] : evaluation.confusion) parts[part] = report_of(matrix, labels);
  return parts;
}

std::string class_report_text(const Evaluation& evaluation, const std::vector<std::string>& labels) {
  std::string text;
  for (const auto& [part, matrix] : evaluation.confusion) {
    if (!part.empty()) text += part + "\n";
    text += scores_text(matrix, labels) + matrix_text(matrix, labels);
  }
  return text;
}

}  // namespace msplora
