#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/data/encode.h"
#include "msplora/data/examples.h"
#include "msplora/data/label_map.h"
#include "msplora/data/mlm.h"
#include "msplora/metrics/metrics.h"
#include "msplora/models/model.h"
#include "msplora/templates/chat_template.h"

namespace msplora {

/// What tasks are made from; each takes what it needs.
struct TaskSettings {
  std::optional<LabelMap> labels;              // the classes, where the task has any
  std::shared_ptr<const Tokenizer> tokenizer;  // null: the examples come encoded
  int64_t max_length = 0;                      // of an example in tokens; 0: no limit
  std::vector<std::string> metrics;            // the first chooses the best model; empty: those of the task
  MaskOptions mask;                            // of masked_lm
  std::optional<MlmVocabulary> vocabulary;     // of masked_lm; unset: the tokenizer's
  ChatDataOptions chat;                        // of sft
  std::shared_ptr<const ChatTemplate> chat_template;  // of sft; null: there are no messages
};

/// What a task says of one example.
struct Prediction {
  std::vector<std::string> cells;  // of a table: one for each of Task::prediction_columns()
  nlohmann::ordered_json json;     // the same for a JSON line, in full precision

  /// The first cell: the class, the value.
  const std::string& text() const { return cells.at(0); }
};

/// Evaluation collates with an epoch that training never reaches.
inline constexpr uint64_t kEvaluationEpoch = uint64_t{1} << 62;

/// What a model learns and is measured by: how rows become examples and batches, the loss, the metrics, and
/// what predictions look like. Made once, then without state; the model is an argument. Training, evaluation,
/// prediction and federation know tasks by these calls alone.
class Task {
 public:
  explicit Task(TaskSettings settings) : settings_(std::move(settings)) {}
  virtual ~Task() = default;
  const TaskSettings& settings() const { return settings_; }

  /// Rows as examples, in their order; `threads` 0: all. Throws Error{kData} with file and line.
  virtual EncodedDataset encode(const Dataset& rows, int threads = 0) const = 0;

  /// The examples at `indices`, laid end to end, with labels or targets. A function of its arguments: a
  /// resumed run sees the same batches. Throws as pack() does.
  Batch collate(const Examples& examples, std::span<const uint32_t> indices, uint64_t epoch) const;

  /// What the loss of a batch is a sum over, known before the model runs: sequences, or tokens with a label.
  virtual int64_t num_targets(const Batch& batch) const = 0;
  /// The same of all examples; where it is 0, there is nothing to learn.
  virtual int64_t count_targets(const Examples& examples) const;
  /// The sum (not the mean) of the losses, a scalar with a graph.
  virtual at::Tensor loss_sum(Model& model, const Batch& batch, const ForwardContext& context) const = 0;

  /// Names of the metrics of score(), `loss` among them; the first chooses the best model.
  virtual std::vector<std::string> metrics() const = 0;
  /// Outputs of the model's head, which the metrics are made for; 0: a language model's.
  virtual int64_t num_outputs() const = 0;
  /// Adds what the model says of a batch to the metrics. Called without gradients.
  virtual void score(Model& model, const Batch& batch, MetricSet& metrics) const = 0;

  /// What predictions are made of: float32 [batch's examples, n] on the CPU. Called without gradients.
  /// Throws Error{kUsage} for a task without predictions.
  virtual at::Tensor outputs(Model& model, const Batch& batch) const = 0;
  /// Columns of a table of predictions; `details` adds what they were chosen by (logits).
  virtual std::vector<std::string> prediction_columns(bool details) const = 0;
  /// One for each row of outputs().
  virtual std::vector<Prediction> predictions(const at::Tensor& outputs, bool details) const = 0;

  /// Writes into config.json what the head of a model that is saved stands for.
  virtual void describe(ModelConfig& config) const;

 protected:
  /// Labels and targets of a batch of these examples (its input may be changed too: masks).
  virtual void label(std::span<const TokenizedExample> examples, uint64_t epoch, Batch& batch) const = 0;

 private:
  TaskSettings settings_;
};

/// A row of the list of tasks (src/tasks/list.h).
struct TaskKind {
  std::string name;     // of task.type
  std::string summary;  // for the reference of the recipe
  ModelTask head = ModelTask::kSequenceClassification;
  LabelKind labels = LabelKind::kNone;  // what the label column holds
  std::string peft_type;                // task_type of adapter_config.json
  std::unique_ptr<Task> (*make)(TaskSettings settings) = nullptr;
};

const std::vector<TaskKind>& task_kinds();
std::vector<std::string> task_names();
/// Throws Error{kConfig} with the nearest name for an unknown one.
const TaskKind& task_kind(std::string_view name);
/// Throws as task_kind() does, and Error{kConfig} for metrics that do not suit.
std::unique_ptr<Task> make_task(std::string_view name, TaskSettings settings);

}  // namespace msplora
