#include "report_text.h"

#include <fmt/format.h>

#include <iostream>
#include <string>
#include <vector>

namespace msplora {
namespace {

constexpr int64_t kShownClasses = 20;  // a wider matrix does not fit a screen

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
    table.add(cells_of(labels.at(static_cast<size_t>(k)), class_scores(matrix, k), matrix.support(k),
                       std::to_string(matrix.predicted(k))));
  }
  table.add(cells_of("macro average", average_scores(matrix, false), matrix.total(), ""));
  table.add(cells_of("weighted average", average_scores(matrix, true), matrix.total(), ""));
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

void print_paused(const RunReport& report, const CommonOptions& common) {
  const bool has_rounds = report.rounds.has_value();
  const char* const unit = has_rounds ? "round" : "step";
  const int64_t done = has_rounds ? *report.rounds : report.steps;
  say(common, fmt::format("paused after {} {} of {}; continue with --resume\n", unit, done, report.whole));
  if (common.json) print_json({{"run", report.run}, {"paused", true}, {fmt::format("{}s", unit), done}});
}

int64_t bytes_of(const RunReport& report, const char* direction) {
  return report.bytes.at(direction).at("total").get<int64_t>();
}

}  // namespace

bool print_report(const RunReport& report, const CommonOptions& common) {
  if (report.paused) {
    print_paused(report, common);
    return false;
  }
  if (common.json) {
    print_json(to_json(report));
    return false;
  }
  std::cout << (report.rounds
                    ? fmt::format("done: {} rounds in {:.1f} s; sent down {}, up {}\n", *report.rounds,
                                  report.seconds, bytes_text(bytes_of(report, "down")),
                                  bytes_text(bytes_of(report, "up")))
                    : fmt::format("done: {} steps in {:.1f} s, {:.0f} tokens/s\n", report.steps,
                                  report.seconds, report.tokens_per_second));
  return true;
}

std::string closing_lines(const RunReport& report, const RunDirectory& directory) {
  std::string text;
  for (const char* form : {"peft", "native"}) {
    const auto found = report.adapters.find(form);
    if (found != report.adapters.end())
      text += fmt::format("  {:<15} {}\n", std::string(form) + " adapter", found->second);
  }
  return text + fmt::format("  {:<15} {}\n  {:<15} {}\n", "metrics", directory.metrics().string(), "recipe",
                            directory.recipe().string());
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
