#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/data/examples.h"
#include "msplora/models/model.h"
#include "msplora/tasks/task.h"

namespace msplora {

/// Task::outputs() of every example in the order given, float32 [n, k], computed in batches of similar
/// lengths. Throws Error{kNumerics} where a value is not finite, naming the example.
at::Tensor outputs_of(const Task& task, Model& model, const Examples& examples, int64_t batch_tokens = 4096);

/// One prediction for each example, in the order given. Throws as outputs_of() does.
std::vector<Prediction> predict(const Task& task, Model& model, const Examples& examples,
                                int64_t batch_tokens = 4096, bool details = false);

enum class PredictionFormat { kTsv, kCsv, kJsonl };

/// What stands in a file of predictions.
struct PredictionLayout {
  PredictionFormat format = PredictionFormat::kTsv;
  char delimiter = ',';              // of CSV
  std::vector<std::string> columns;  // of the results: Task::prediction_columns()
  std::vector<std::string> kept;     // of tables: columns taken over from the input, written first
};

/// Writes one row for each example, in pieces as they come.
///   TSV, CSV  a header, then the kept columns and those of the results. CSV quotes as RFC 4180; in TSV,
///             which has no quotes, tabs and line ends inside a field become spaces
///   JSONL     the kept fields, then those of the prediction
class PredictionWriter {
 public:
  /// `out` must outlive it. Throws Error{kUsage} when a kept column is called as one of the results.
  PredictionWriter(std::ostream& out, PredictionLayout layout);

  /// `kept` holds one object of named fields for each row, or nothing. `where(row)` names an example for
  /// messages.
  void write(const std::vector<Prediction>& predictions, const std::vector<nlohmann::ordered_json>& kept,
             const std::function<std::string(size_t)>& where);

 private:
  void write_row(const std::vector<std::string>& cells);
  void write_table_row(const Prediction& prediction, const nlohmann::ordered_json* kept);
  void write_json_row(const Prediction& prediction, const nlohmann::ordered_json* kept,
                      const std::string& where);

  std::ostream& out_;
  PredictionLayout layout_;
  bool has_header_ = false;
};

}  // namespace msplora
