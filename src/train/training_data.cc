#include "msplora/train/training_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {
namespace {

const Examples& not_empty(const Task& task, const Examples& examples) {
  if (examples.size == 0) throw Error(ErrorCode::kData, "training", "there are no examples to train on");
  if (task.count_targets(examples) == 0)
    throw Error(ErrorCode::kData, "training", "the examples hold no token to predict");
  return examples;
}

}  // namespace

TrainingData::TrainingData(const Task& task, Model& model, Examples train, const BatchOptions& batches,
                           std::vector<NamedExamples> validation, int64_t eval_batch_tokens)
    : task_(task),
      model_(model),
      train_(std::move(train)),
      batches_(BatchPlan(lengths_of(not_empty(task, train_)), batches, train_.draws)),
      fingerprint_(fingerprint_of(train_)) {
  if (!validation.empty()) evaluator_.emplace(task, model, std::move(validation), eval_batch_tokens);
}

int64_t TrainingData::num_batches(int64_t epoch) {
  return static_cast<int64_t>(batches_.of(epoch).size());
}

Batch TrainingData::batch(int64_t epoch, int64_t index) {
  return task_.collate(train_, batches_.of(epoch)[static_cast<size_t>(index)], static_cast<uint64_t>(epoch));
}

at::Tensor TrainingData::loss_sum(const Batch& batch, const ForwardContext& context) {
  return task_.loss_sum(model_, batch, context);
}

std::vector<std::string> TrainingData::metric_names() const {
  return evaluator_ ? evaluator_->metric_names() : std::vector<std::string>();
}

Evaluation TrainingData::evaluate() {
  return evaluator_.value().run();
}

std::string TrainingData::describe(const Batch& batch) const {
  constexpr size_t kShown = 8;
  std::vector<uint32_t> examples = batch.examples;
  examples.erase(std::unique(examples.begin(), examples.end()), examples.end());
  std::string text = "the examples of the batch are ";
  for (size_t i = 0; i < std::min(kShown, examples.size()); ++i)
    text += (i > 0 ? ", " : "") + train_.name(examples[i]);
  if (examples.size() > kShown) text += fmt::format(" and {} more", examples.size() - kShown);
  return text;
}

BatchOptions batch_options(const TrainOptions& train) {
  BatchOptions options;
  options.token_budget = train.token_budget.value_or(0);
  options.batch_size = train.batch_size.value_or(train.token_budget ? 0 : kDefaultBatchSize);
  options.seed = static_cast<uint64_t>(train.seed);
  return options;
}

BatchOptions batch_options(const TrainOptions& train, const DataConfig& data) {
  BatchOptions options = batch_options(train);
  options.shuffle = data.shuffle;
  options.bucket = data.bucket;
  options.window_batches = data.bucket_batches;
  return options;
}

MemoryEstimate estimate_memory(const Architecture& architecture, MemoryQuestion question,
                               const TrainOptions& train, double mean_length, int64_t text_tokens) {
  const double tokens = train.token_budget
                            ? static_cast<double>(*train.token_budget)
                            : static_cast<double>(batch_options(train).batch_size) * mean_length;
  question.tokens_per_batch = std::min(static_cast<int64_t>(tokens), text_tokens);
  question.bytes_per_weight = train.dtype == "bfloat16" ? 2 : 4;
  question.checkpoint_activations = train.checkpoint_activations;
  question.is_causal_lm = architecture.task == ModelTask::kCausalLm;
  return estimate_memory(architecture, question);
}

}  // namespace msplora
