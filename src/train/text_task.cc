#include "msplora/train/text_task.h"

#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "msplora/core/random.h"
#include "msplora/nn/functional.h"
#include "msplora/tasks/inputs.h"

namespace msplora {
namespace {

uint64_t fingerprint_of(const std::vector<TokenizedExample>& examples) {
  uint64_t hash = mix_seed(0, examples.size());
  for (const TokenizedExample& example : examples) {
    for (const int32_t id : example.ids) hash = mix_seed(hash, static_cast<uint64_t>(id));
    hash = mix_seed(hash, static_cast<uint64_t>(example.label));
    hash = mix_seed(hash, static_cast<uint64_t>(std::llround(example.target * 1e6)));
  }
  return hash;
}

uint64_t fingerprint_of(const MlmCorpus& corpus) {
  uint64_t hash = mix_seed(1, corpus.size());
  std::vector<int64_t> ids;
  for (size_t i = 0; i < corpus.size(); ++i) {
    ids.clear();
    corpus.append_sequence(i, ids);
    for (const int64_t id : ids) hash = mix_seed(hash, static_cast<uint64_t>(id));
  }
  return hash;
}

const std::vector<TokenizedExample>& not_empty(const std::vector<TokenizedExample>& examples) {
  if (examples.empty()) throw Error(ErrorCode::kData, "training", "there are no examples to train on");
  return examples;
}

}  // namespace

TextTask::TextTask(Model& model, const std::vector<TokenizedExample>& train,
                   const std::vector<ValidationSet>& validation, TextTaskOptions options)
    : model_(model),
      train_(not_empty(train)),
      options_(std::move(options)),
      batches_(BatchPlan(lengths_of(train), options_.batches)),
      fingerprint_(fingerprint_of(train)) {
  for (const ValidationSet& set : validation) {
    set_names_.push_back(set.name);
    evaluators_.emplace_back(
        model, *set.examples,
        EvaluatorOptions{options_.is_regression, options_.metrics, options_.eval_batch_tokens});
  }
}

int64_t TextTask::num_batches(int64_t epoch) {
  return static_cast<int64_t>(batches_.of(epoch).size());
}

Batch TextTask::batch(int64_t epoch, int64_t index) {
  return collate(train_, batches_.of(epoch)[static_cast<size_t>(index)], options_.is_regression);
}

int64_t TextTask::num_targets(const Batch& batch) const {
  return options_.is_regression ? static_cast<int64_t>(batch.targets.size()) : count_labels(batch);
}

at::Tensor TextTask::loss_sum(const Batch& batch, const ForwardContext& context) {
  const at::Tensor logits = model_.forward(packed_input(batch), context);
  if (options_.is_regression) return squared_error_sum(logits, target_tensor(batch));
  return cross_entropy_sum(logits, label_tensor(batch));
}

std::string TextTask::prefix(size_t set) const {
  return evaluators_.size() > 1 ? set_names_[set] + "_" : "";
}

std::vector<std::string> TextTask::metric_names() const {
  std::vector<std::string> names;
  for (size_t set = 0; set < evaluators_.size(); ++set) {
    for (const std::string& name : evaluators_[set].metric_names()) names.push_back(prefix(set) + name);
  }
  return names;
}

Evaluation TextTask::evaluate() {
  Evaluation all;
  for (size_t set = 0; set < evaluators_.size(); ++set) {
    const Evaluation one = evaluators_[set].run();
    for (const auto& [name, value] : one.metrics) all.metrics.emplace_back(prefix(set) + name, value);
    for (const auto& [part, matrix] : one.confusion)
      all.confusion.emplace_back(evaluators_.size() > 1 ? set_names_[set] : part, matrix);
    if (!one.note.empty()) all.note = one.note;
    all.examples += one.examples;
    all.tokens += one.tokens;
    all.seconds += one.seconds;
  }
  return all;
}

std::string TextTask::describe(const Batch& batch) const {
  return describe_examples(batch, options_.where);
}

MlmTask::MlmTask(Model& model, const MlmCorpus& train, const MlmCorpus* validation, const MaskOptions& mask,
                 const BatchOptions& batches, int64_t eval_batch_tokens)
    : model_(model),
      train_(train),
      mask_(mask),
      batches_(BatchPlan(train.lengths(), batches)),
      fingerprint_(fingerprint_of(train)) {
  if (validation != nullptr) {
    evaluator_ = std::make_unique<MlmEvaluator>(model, *validation, mask, eval_batch_tokens);
  }
}

int64_t MlmTask::num_batches(int64_t epoch) {
  return static_cast<int64_t>(batches_.of(epoch).size());
}

Batch MlmTask::batch(int64_t epoch, int64_t index) {
  return collate_mlm(train_, batches_.of(epoch)[static_cast<size_t>(index)], mask_,
                     static_cast<uint64_t>(epoch));
}

int64_t MlmTask::num_targets(const Batch& batch) const {
  return count_labels(batch);
}

at::Tensor MlmTask::loss_sum(const Batch& batch, const ForwardContext& context) {
  at::Tensor labels;
  const PackedInput input = packed_input_with_labels(batch, labels);
  return cross_entropy_sum(model_.forward(input, context), labels);
}

Evaluation MlmTask::evaluate() {
  return evaluator_->run();
}

std::string MlmTask::describe(const Batch& batch) const {
  return batch.examples.empty()
             ? std::string("an empty batch")
             : fmt::format("the batch starts with sequence {} of the text", batch.examples.front() + 1);
}

std::string describe_examples(const Batch& batch, const std::function<std::string(uint32_t)>& where) {
  constexpr size_t kShown = 8;
  std::string text = "the examples of the batch are ";
  for (size_t i = 0; i < std::min(kShown, batch.examples.size()); ++i) {
    if (i > 0) text += ", ";
    text += where ? where(batch.examples[i]) : fmt::format("number {}", batch.examples[i] + 1);
  }
  if (batch.examples.size() > kShown) text += fmt::format(" and {} more", batch.examples.size() - kShown);
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

}  // namespace msplora
