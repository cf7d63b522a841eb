#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/metrics/metrics.h"

namespace msplora {

/// The outcome of one evaluation.
struct Evaluation {
  /// Names and values, the one that picks the best model first; `loss` (mean over the targets) is among them.
  std::vector<std::pair<std::string, double>> metrics;
  int64_t examples = 0;
  int64_t tokens = 0;
  double seconds = 0.0;
  /// Of a classification: the counts behind the metrics, by part ("" where there is one part alone).
  std::vector<std::pair<std::string, ConfusionMatrix>> confusion = {};
  /// Of classes and values: what was said of every example, in the order of the data, by part.
  std::vector<std::pair<std::string, std::vector<MetricPair>>> pairs = {};
  std::string note = {};  // what the numbers alone do not say; mostly empty

  std::optional<double> find(std::string_view name) const;
  /// Throws Error{kConfig} with the nearest name when absent.
  double value(std::string_view name) const;
  std::vector<std::string> names() const;
};

/// Whether a smaller value of the metric is better (losses, errors, perplexity).
bool smaller_is_better(std::string_view metric);

/// "accuracy 0.9037  loss 0.2611"
std::string format_metrics(const Evaluation& evaluation);

}  // namespace msplora
