#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "msplora/data/batching.h"
#include "msplora/data/examples.h"
#include "msplora/models/model.h"
#include "msplora/tasks/evaluation.h"
#include "msplora/tasks/task.h"

namespace msplora {

/// Examples done and in all; called now and then from the evaluating thread.
using EvaluationProgress = std::function<void(int64_t done, int64_t total)>;

/// A part of the data by its name.
struct NamedExamples {
  std::string name;
  Examples examples;
};

/// Evaluates a model on labelled examples, batch by batch: what it says goes into the metrics and is
/// forgotten. Keeps its batches, so that it can run again and again during training.
class Evaluator {
 public:
  /// Task, model and examples must outlive it. With several parts each metric is reported as NAME_METRIC.
  /// Throws Error{kData} when a part holds nothing to evaluate on.
  Evaluator(const Task& task, Model& model, std::vector<NamedExamples> parts, int64_t batch_tokens = 4096);
  Evaluator(const Task& task, Model& model, Examples examples, int64_t batch_tokens = 4096);

  Evaluation run(const EvaluationProgress& progress = {});
  std::vector<std::string> metric_names() const;

 private:
  std::string prefix(size_t part) const { return parts_.size() > 1 ? parts_[part].name + "_" : ""; }
  void add_part(size_t part, Evaluation& all, const EvaluationProgress& progress) const;

  const Task& task_;
  Model& model_;
  std::vector<NamedExamples> parts_;
  std::vector<BatchList> batches_;  // of each part
  int64_t total_ = 0;               // examples
};

}  // namespace msplora
