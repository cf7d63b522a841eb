#include "msplora/tasks/evaluator.h"

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/metrics/metrics.h"
#include "msplora/nn/functional.h"
#include "msplora/tasks/inputs.h"

namespace msplora {
namespace {

// Evaluation draws its masks as an epoch that training never reaches.
constexpr uint64_t kEvaluationEpoch = uint64_t{1} << 62;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

BatchList evaluation_batches(std::vector<uint32_t> lengths, int64_t batch_tokens) {
  BatchOptions options;
  options.token_budget = batch_tokens;
  return BatchPlan(std::move(lengths), options).sequential();
}

int64_t outputs_of(const Model& model, bool is_regression) {
  return is_regression ? 1 : model.config().num_labels;
}

void add_predictions(const at::Tensor& logits, const Batch& batch, bool is_regression, MetricSet& metrics) {
  if (is_regression) {
    const at::Tensor values = logits.reshape({-1}).contiguous();
    const float* value = values.data_ptr<float>();
    for (size_t i = 0; i < batch.targets.size(); ++i) metrics.update_value(value[i], batch.targets[i]);
    return;
  }
  const at::Tensor classes = logits.argmax(1).contiguous();
  const int64_t* predicted = classes.data_ptr<int64_t>();
  for (size_t i = 0; i < batch.labels.size(); ++i) {
    if (batch.labels[i] != kIgnoredLabel) metrics.update_class(predicted[i], batch.labels[i]);
  }
}

}  // namespace

namespace {

double rounding_of(const Model& model) {
  const at::ScalarType dtype = model.compute_dtype();
  return dtype == at::kBFloat16 || dtype == at::kHalf ? kBFloat16Rounding : kFloat32Rounding;
}

/// A regression that has only learned the mean gets a loss that looks like any other.
std::string flatness_note(const CoMoments& moments) {
  constexpr double kFlat = 0.01;
  if (moments.count() < 2 || moments.deviation_x() > kFlat * moments.deviation_y()) return {};
  if (moments.deviation_y() == 0) return {};
  return fmt::format(
      "the predictions hardly vary: their standard deviation is {:.2g}, that of the targets {:.2g}; the "
      "model "
      "says about {:.4g} of every text",
      moments.deviation_x(), moments.deviation_y(), moments.mean_x());
}

}  // namespace

ExampleEvaluator::ExampleEvaluator(Model& model, const std::vector<TokenizedExample>& examples,
                                   EvaluatorOptions options)
    : model_(model), examples_(examples), options_(std::move(options)) {
  if (examples.empty()) throw Error(ErrorCode::kData, "evaluation", "there are no examples to evaluate on");
  const int64_t outputs = outputs_of(model, options_.is_regression);
  if (options_.metrics.empty()) options_.metrics = metrics_for(outputs);
  auto& names = options_.metrics;
  if (std::find(names.begin(), names.end(), "loss") == names.end()) names.push_back("loss");
  MetricSet::create(names, outputs);  // complains now, not after an epoch
  batches_ = evaluation_batches(lengths_of(examples), options_.batch_tokens);
}

Evaluation ExampleEvaluator::run(const EvaluationProgress& progress) {
  c10::NoGradGuard no_grad;
  const auto began = std::chrono::steady_clock::now();
  MetricSet metrics =
      MetricSet::create(options_.metrics, outputs_of(model_, options_.is_regression), rounding_of(model_));
  Evaluation evaluation;
  for (size_t i = 0; i < batches_.size(); ++i) {
    const Batch batch = collate(examples_, batches_[i], options_.is_regression);
    const at::Tensor logits = model_.forward(packed_input(batch), ForwardContext{}).to(at::kCPU, at::kFloat);
    const int64_t targets =
        options_.is_regression ? static_cast<int64_t>(batch.targets.size()) : count_labels(batch);
    if (targets > 0) {
      const at::Tensor sum = options_.is_regression ? squared_error_sum(logits, target_tensor(batch))
                                                    : cross_entropy_sum(logits, label_tensor(batch));
      metrics.update_loss(sum.item<double>(), targets);
    }
    add_predictions(logits, batch, options_.is_regression, metrics);
    evaluation.examples += static_cast<int64_t>(batch.sequences());
    evaluation.tokens += static_cast<int64_t>(batch.tokens());
    if (progress) progress(evaluation.examples, static_cast<int64_t>(examples_.size()));
  }
  const auto values = metrics.compute();
  for (const std::string& name : options_.metrics) evaluation.metrics.emplace_back(name, values.at(name));
  if (options_.is_regression) {
    evaluation.note = flatness_note(metrics.moments());
  } else {
    evaluation.confusion.emplace_back("", metrics.confusion());
  }
  evaluation.seconds = seconds_since(began);
  return evaluation;
}

MlmEvaluator::MlmEvaluator(Model& model, const MlmCorpus& corpus, MaskOptions mask, int64_t batch_tokens)
    : model_(model),
      corpus_(corpus),
      mask_{mask.probability, mask.whole_word, mask.seed},  // words alone: the first token is not measured
      batches_(evaluation_batches(corpus.lengths(), batch_tokens)) {}

Evaluation MlmEvaluator::run(const EvaluationProgress& progress) {
  c10::NoGradGuard no_grad;
  const auto began = std::chrono::steady_clock::now();
  double loss = 0.0;
  int64_t targets = 0;
  int64_t right = 0;
  Evaluation evaluation;
  for (size_t i = 0; i < batches_.size(); ++i) {
    const Batch batch = collate_mlm(corpus_, batches_[i], mask_, kEvaluationEpoch);
    at::Tensor labels;
    const PackedInput input = packed_input_with_labels(batch, labels);
    const at::Tensor logits = model_.forward(input, ForwardContext{}).cpu();
    loss += cross_entropy_sum(logits, labels).item<double>();
    right += logits.argmax(1).eq(labels).sum().item<int64_t>();
    targets += labels.numel();
    evaluation.examples += static_cast<int64_t>(batch.sequences());
    evaluation.tokens += static_cast<int64_t>(batch.tokens());
    if (progress) progress(evaluation.examples, static_cast<int64_t>(corpus_.size()));
  }
  if (targets == 0) throw Error(ErrorCode::kData, "evaluation", "there are no tokens to predict");
  const double mean = loss / static_cast<double>(targets);
  evaluation.metrics = {{"loss", mean},
                        {"perplexity", std::exp(mean)},
                        {"accuracy", static_cast<double>(right) / static_cast<double>(targets)}};
  evaluation.seconds = seconds_since(began);
  return evaluation;
}

CausalLmEvaluator::CausalLmEvaluator(Model& model, const std::vector<TokenizedExample>& examples,
                                     int64_t batch_tokens)
    : model_(model), examples_(examples), batches_(evaluation_batches(lengths_of(examples), batch_tokens)) {
  if (count_predicted(examples) == 0)
    throw Error(ErrorCode::kData, "evaluation", "there are no tokens to predict");
}

Evaluation CausalLmEvaluator::run(const EvaluationProgress& progress) {
  c10::NoGradGuard no_grad;
  const auto began = std::chrono::steady_clock::now();
  double loss = 0.0;
  int64_t targets = 0;
  Evaluation evaluation;
  for (size_t i = 0; i < batches_.size(); ++i) {
    const Batch batch = collate_causal(examples_, batches_[i]);
    evaluation.examples += static_cast<int64_t>(batch.sequences());
    evaluation.tokens += static_cast<int64_t>(batch.tokens());
    if (const int64_t here = count_labels(batch)) {
      at::Tensor labels;
      const PackedInput input = packed_input_with_labels(batch, labels);
      loss += model_.loss_sum(input, labels, ForwardContext{}).item<double>();
      targets += here;
    }
    if (progress) progress(evaluation.examples, static_cast<int64_t>(examples_.size()));
  }
  const double mean = loss / static_cast<double>(targets);
  evaluation.metrics = {{"loss", mean}, {"perplexity", std::exp(mean)}};
  evaluation.seconds = seconds_since(began);
  return evaluation;
}

at::Tensor predict_logits(Model& model, const std::vector<TokenizedExample>& examples, int64_t batch_tokens,
                          const EvaluationProgress& progress) {
  c10::NoGradGuard no_grad;
  const BatchList batches = evaluation_batches(lengths_of(examples), batch_tokens);
  at::Tensor logits =
      at::zeros({static_cast<int64_t>(examples.size()), model.config().num_labels}, at::kFloat);
  int64_t done = 0;
  for (size_t i = 0; i < batches.size(); ++i) {
    const Batch batch = collate(examples, batches[i], /*regression=*/false);
    const at::Tensor rows = model.forward(packed_input(batch), ForwardContext{}).to(at::kFloat);
    for (size_t row = 0; row < batch.examples.size(); ++row) {
      logits.select(0, batch.examples[row]).copy_(rows.select(0, static_cast<int64_t>(row)));
    }
    done += static_cast<int64_t>(batch.sequences());
    if (progress) progress(done, static_cast<int64_t>(examples.size()));
  }
  return logits;
}

}  // namespace msplora
