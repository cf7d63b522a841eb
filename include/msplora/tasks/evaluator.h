#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "msplora/data/batching.h"
#include "msplora/data/mlm.h"
#include "msplora/models/model.h"
#include "msplora/tasks/evaluation.h"

namespace msplora {

/// Sequences done and in all; called now and then from the evaluating thread.
using EvaluationProgress = std::function<void(int64_t done, int64_t total)>;

struct EvaluatorOptions {
  bool is_regression = false;
  std::vector<std::string> metrics;  // names of MetricSet; empty: those that suit the task. `loss` is added
  int64_t batch_tokens = 4096;
};

/// Evaluates a sequence-classification (or regression) model on labelled examples, batch by batch:
/// predictions go into the metrics and are forgotten. Keeps its batches, so that it can run again and again
/// during training.
class ExampleEvaluator {
 public:
  /// Model and examples must outlive it. Throws Error{kConfig} for metrics that do not suit, Error{kData}
  /// when there are no examples.
  ExampleEvaluator(Model& model, const std::vector<TokenizedExample>& examples, EvaluatorOptions options);

  Evaluation run(const EvaluationProgress& progress = {});
  const std::vector<std::string>& metric_names() const { return options_.metrics; }

 private:
  Model& model_;
  const std::vector<TokenizedExample>& examples_;
  EvaluatorOptions options_;
  BatchList batches_;
};

/// Evaluates a masked language model: loss (mean over the masked tokens), perplexity and accuracy. The masks
/// are the same at every call.
class MlmEvaluator {
 public:
  /// Model and corpus must outlive it.
  MlmEvaluator(Model& model, const MlmCorpus& corpus, MaskOptions mask, int64_t batch_tokens);

  Evaluation run(const EvaluationProgress& progress = {});
  static std::vector<std::string> metric_names() { return {"loss", "perplexity", "accuracy"}; }

 private:
  Model& model_;
  const MlmCorpus& corpus_;
  MaskOptions mask_;
  BatchList batches_;
};

/// Evaluates a causal language model: loss (mean over the tokens behind the prompts) and perplexity.
class CausalLmEvaluator {
 public:
  /// Model and examples must outlive it. Throws Error{kData} when there is no token to predict.
  CausalLmEvaluator(Model& model, const std::vector<TokenizedExample>& examples, int64_t batch_tokens);

  Evaluation run(const EvaluationProgress& progress = {});
  static std::vector<std::string> metric_names() { return {"loss", "perplexity"}; }

 private:
  Model& model_;
  const std::vector<TokenizedExample>& examples_;
  BatchList batches_;
};

/// Logits of every example in the order given, float32 [n, num_labels].
at::Tensor predict_logits(Model& model, const std::vector<TokenizedExample>& examples,
                          int64_t batch_tokens = 4096, const EvaluationProgress& progress = {});

}  // namespace msplora
