#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "msplora/data/batching.h"
#include "msplora/models/memory_estimate.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/tasks/task.h"
#include "msplora/train/recipe.h"

namespace msplora {

/// What a Trainer works on: a task, the examples that the model learns from in batches, and those that it is
/// evaluated on. The calls are virtual so that who measures or checks training can watch them.
///
/// Batches are a function of (epoch, index) alone, so that a resumed run sees the same ones.
class TrainingData {
 public:
  /// Task, model and what is behind the examples must outlive it. Throws Error{kData} when there is nothing
  /// to train or evaluate on.
  TrainingData(const Task& task, Model& model, Examples train, const BatchOptions& batches,
               std::vector<NamedExamples> validation = {}, int64_t eval_batch_tokens = 4096);
  virtual ~TrainingData() = default;

  /// Micro-batches of an epoch (from 0). At least 1.
  int64_t num_batches(int64_t epoch);
  virtual Batch batch(int64_t epoch, int64_t index);
  int64_t num_targets(const Batch& batch) const { return task_.num_targets(batch); }
  virtual at::Tensor loss_sum(const Batch& batch, const ForwardContext& context);

  /// Whether there is anything to evaluate on.
  virtual bool can_evaluate() const { return evaluator_.has_value(); }
  /// Names of the metrics that evaluate() gives, in its order.
  virtual std::vector<std::string> metric_names() const;
  /// Evaluates the weights as they are.
  virtual Evaluation evaluate();

  /// Changes when the examples do; a resumed run must find it unchanged.
  uint64_t fingerprint() const { return fingerprint_; }
  /// Where the examples of a batch come from, for messages: "the examples of the batch are train.tsv:3, ...".
  std::string describe(const Batch& batch) const;

 private:
  const Task& task_;
  Model& model_;
  Examples train_;
  EpochBatches batches_;
  std::optional<Evaluator> evaluator_;
  uint64_t fingerprint_ = 0;
};

/// The batching that the options of a recipe ask for.
BatchOptions batch_options(const TrainOptions& train);
BatchOptions batch_options(const TrainOptions& train, const DataConfig& data);

/// Of a step with these options on `text_tokens` in examples of a mean length. Of `question` what is trained
/// is read.
MemoryEstimate estimate_memory(const Architecture& architecture, MemoryQuestion question,
                               const TrainOptions& train, double mean_length, int64_t text_tokens);

}  // namespace msplora
