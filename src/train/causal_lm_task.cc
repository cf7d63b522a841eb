#include "msplora/train/causal_lm_task.h"

#include <fmt/format.h>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/tasks/inputs.h"

namespace msplora {
namespace {

uint64_t fingerprint_of_prompts(const std::vector<TokenizedExample>& examples) {
  uint64_t hash = mix_seed(2, examples.size());
  for (const TokenizedExample& example : examples) {
    hash = mix_seed(hash, static_cast<uint64_t>(example.prompt_tokens));
    for (const int32_t id : example.ids) hash = mix_seed(hash, static_cast<uint64_t>(id));
  }
  return hash;
}

const std::vector<TokenizedExample>& with_tokens_to_predict(const std::vector<TokenizedExample>& examples) {
  if (count_predicted(examples) == 0)
    throw Error(ErrorCode::kData, "training", "the examples hold no token to predict");
  return examples;
}

}  // namespace

CausalLmTask::CausalLmTask(Model& model, const std::vector<TokenizedExample>& train,
                           const std::vector<TokenizedExample>* validation, CausalLmTaskOptions options)
    : model_(model),
      train_(with_tokens_to_predict(train)),
      options_(std::move(options)),
      batches_(BatchPlan(lengths_of(train), options_.batches)),
      fingerprint_(fingerprint_of_prompts(train)) {
  if (validation != nullptr)
    evaluator_ = std::make_unique<CausalLmEvaluator>(model, *validation, options_.eval_batch_tokens);
}

int64_t CausalLmTask::num_batches(int64_t epoch) {
  return static_cast<int64_t>(batches_.of(epoch).size());
}

Batch CausalLmTask::batch(int64_t epoch, int64_t index) {
  return collate_causal(train_, batches_.of(epoch)[static_cast<size_t>(index)]);
}

int64_t CausalLmTask::num_targets(const Batch& batch) const {
  return count_labels(batch);
}

at::Tensor CausalLmTask::loss_sum(const Batch& batch, const ForwardContext& context) {
  at::Tensor labels;
  const PackedInput input = packed_input_with_labels(batch, labels);
  return model_.loss_sum(input, labels, context);
}

Evaluation CausalLmTask::evaluate() {
  return evaluator_->run();
}

std::string CausalLmTask::describe(const Batch& batch) const {
  return describe_examples(batch, options_.where);
}

}  // namespace msplora
