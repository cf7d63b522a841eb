#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "msplora/data/batching.h"
#include "msplora/data/mlm.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/train/recipe.h"
#include "msplora/train/task.h"

namespace msplora {

/// Examples to evaluate on. With several sets, each metric is reported as NAME_METRIC.
struct ValidationSet {
  std::string name;
  const std::vector<TokenizedExample>* examples = nullptr;  // not owned
};

struct TextTaskOptions {
  bool is_regression = false;
  BatchOptions batches;
  std::vector<std::string> metrics;  // empty: those that suit the task
  int64_t eval_batch_tokens = 4096;
  /// Where an example comes from ("train.tsv:17"), for messages; may be empty.
  std::function<std::string(uint32_t)> where;
};

/// Classification or regression of texts.
class TextTask : public TrainingTask {
 public:
  /// Model and examples must outlive it. Throws Error{kData} when there are no examples.
  TextTask(Model& model, const std::vector<TokenizedExample>& train,
           const std::vector<ValidationSet>& validation, TextTaskOptions options);

  int64_t num_batches(int64_t epoch) override;
  Batch batch(int64_t epoch, int64_t index) override;
  int64_t num_targets(const Batch& batch) const override;
  at::Tensor loss_sum(const Batch& batch, const ForwardContext& context) override;
  bool can_evaluate() const override { return !evaluators_.empty(); }
  std::vector<std::string> metric_names() const override;
  Evaluation evaluate() override;
  uint64_t fingerprint() const override { return fingerprint_; }
  std::string describe(const Batch& batch) const override;

 private:
  std::string prefix(size_t set) const;

  Model& model_;
  const std::vector<TokenizedExample>& train_;
  TextTaskOptions options_;
  EpochBatches batches_;
  std::vector<std::string> set_names_;
  std::vector<ExampleEvaluator> evaluators_;
  uint64_t fingerprint_ = 0;
};

/// Masked language modelling. New masks in each epoch.
class MlmTask : public TrainingTask {
 public:
  /// Model and corpora must outlive it; `validation` may be null.
  MlmTask(Model& model, const MlmCorpus& train, const MlmCorpus* validation, const MaskOptions& mask,
          const BatchOptions& batches, int64_t eval_batch_tokens);

  int64_t num_batches(int64_t epoch) override;
  Batch batch(int64_t epoch, int64_t index) override;
  int64_t num_targets(const Batch& batch) const override;
  at::Tensor loss_sum(const Batch& batch, const ForwardContext& context) override;
  bool can_evaluate() const override { return evaluator_ != nullptr; }
  std::vector<std::string> metric_names() const override { return MlmEvaluator::metric_names(); }
  Evaluation evaluate() override;
  uint64_t fingerprint() const override { return fingerprint_; }
  std::string describe(const Batch& batch) const override;

 private:
  Model& model_;
  const MlmCorpus& train_;
  MaskOptions mask_;
  EpochBatches batches_;
  std::unique_ptr<MlmEvaluator> evaluator_;
  uint64_t fingerprint_ = 0;
};

/// The batching that the options of a recipe ask for.
BatchOptions batch_options(const TrainOptions& train);
BatchOptions batch_options(const TrainOptions& train, const DataConfig& data);

}  // namespace msplora
