#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace msplora {

enum class PredictionFormat { kTsv, kCsv, kJsonl };

/// What stands in a file of predictions.
struct PredictionLayout {
  PredictionFormat format = PredictionFormat::kTsv;
  char delimiter = ',';             // of CSV
  std::vector<std::string> labels;  // class names; empty for a regression
  bool with_logits = false;
  std::vector<std::string> kept;  // of tables: columns taken over from the input, written first
};

/// Writes one row for each example, in pieces as they come.
///   TSV, CSV  a header, then: the kept columns, `prediction` (the class, or the value of a regression), the
///             probability of each class (softmax) under its name, and with_logits `logit:NAME` of each
///             class. CSV quotes as RFC 4180; in TSV, which has no quotes, tabs and line ends inside a field
///             become spaces
///   JSONL     the kept fields, {"prediction": "positive", "probabilities": {"negative": 0.1, "positive":
///   0.9}} or
///             {"prediction": 3.2}, and "logits"
class PredictionWriter {
 public:
  /// `out` must outlive it. Throws Error{kUsage} when a kept column is called as one of the results.
  PredictionWriter(std::ostream& out, PredictionLayout layout);

  /// `logits` [n, num_labels]; `kept` one object of named fields for each row, or empty. `where(row)` names
  /// an example for messages. Throws Error{kNumerics} with it where a logit is not finite, before the row is
  /// written; Error{kUsage} when the logits do not fit the labels.
  void write(const at::Tensor& logits, const std::vector<nlohmann::ordered_json>& kept,
             const std::function<std::string(int64_t)>& where);

 private:
  std::vector<std::string> columns() const;
  void write_row(const std::vector<std::string>& cells);
  void write_table_row(const float* logits, const float* probabilities, int64_t best,
                       const nlohmann::ordered_json* kept);
  void write_json_row(const float* logits, const float* probabilities, int64_t best,
                      const nlohmann::ordered_json* kept, const std::string& where);

  std::ostream& out_;
  PredictionLayout layout_;
  bool has_header_ = false;
};

}  // namespace msplora
