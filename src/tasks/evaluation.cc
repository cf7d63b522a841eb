#include "msplora/tasks/evaluation.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {

std::optional<double> Evaluation::find(std::string_view name) const {
  for (const auto& [key, value] : metrics) {
    if (key == name) return value;
  }
  return std::nullopt;
}

double Evaluation::value(std::string_view name) const {
  if (const auto found = find(name)) return *found;
  throw Error(ErrorCode::kConfig, "train.best_metric",
              fmt::format("the evaluation has no metric `{}`; it has {}", name, fmt::join(names(), ", ")),
              did_you_mean(name, names()));
}

std::vector<std::string> Evaluation::names() const {
  std::vector<std::string> names;
  for (const auto& metric : metrics) names.push_back(metric.first);
  return names;
}

bool smaller_is_better(std::string_view metric) {
  for (const std::string_view ending : {"loss", "perplexity", "mse", "mae", "rmse"}) {
    if (metric.ends_with(ending)) return true;
  }
  return false;
}

std::string format_metrics(const Evaluation& evaluation) {
  std::string text;
  for (const auto& [name, value] : evaluation.metrics) {
    text += fmt::format("{}{} {:.4f}", text.empty() ? "" : "  ", name, value);
  }
  return text;
}

}  // namespace msplora
