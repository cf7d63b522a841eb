#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "msplora/data/batching.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/train/task.h"

namespace msplora {

struct CausalLmTaskOptions {
  BatchOptions batches;
  int64_t eval_batch_tokens = 4096;
  /// Where an example comes from ("train.jsonl:17"), for messages; may be empty.
  std::function<std::string(uint32_t)> where;
};

/// Causal language modelling: each token behind the prompt of its example is predicted from those before it.
class CausalLmTask : public TrainingTask {
 public:
  /// Model and examples must outlive it; `validation` may be null. Throws Error{kData} when no example has a
  /// token to predict.
  CausalLmTask(Model& model, const std::vector<TokenizedExample>& train,
               const std::vector<TokenizedExample>* validation, CausalLmTaskOptions options);

  int64_t num_batches(int64_t epoch) override;
  Batch batch(int64_t epoch, int64_t index) override;
  int64_t num_targets(const Batch& batch) const override;
  at::Tensor loss_sum(const Batch& batch, const ForwardContext& context) override;
  bool can_evaluate() const override { return evaluator_ != nullptr; }
  std::vector<std::string> metric_names() const override { return CausalLmEvaluator::metric_names(); }
  Evaluation evaluate() override;
  uint64_t fingerprint() const override { return fingerprint_; }
  std::string describe(const Batch& batch) const override;

 private:
  Model& model_;
  const std::vector<TokenizedExample>& train_;
  CausalLmTaskOptions options_;
  EpochBatches batches_;
  std::unique_ptr<CausalLmEvaluator> evaluator_;
  uint64_t fingerprint_ = 0;
};

}  // namespace msplora
