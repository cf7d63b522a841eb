#include "msplora/tasks/evaluator.h"

#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/stopwatch.h"
#include "msplora/metrics/metrics.h"

namespace msplora {
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
      "model says about {:.4g} of every text",
      moments.deviation_x(), moments.deviation_y(), moments.mean_x());
}

}  // namespace

Evaluator::Evaluator(const Task& task, Model& model, std::vector<NamedExamples> parts, int64_t batch_tokens)
    : task_(task), model_(model), parts_(std::move(parts)) {
  BatchOptions options;
  options.token_budget = batch_tokens;
  for (const NamedExamples& part : parts_) {
    if (part.examples.size == 0)
      throw Error(ErrorCode::kData, "evaluation", "there are no examples to evaluate on");
    if (task.count_targets(part.examples) == 0)
      throw Error(ErrorCode::kData, "evaluation", "there are no tokens to predict");
    batches_.push_back(BatchPlan(lengths_of(part.examples), options).sequential());
    total_ += static_cast<int64_t>(part.examples.size);
  }
}

Evaluator::Evaluator(const Task& task, Model& model, Examples examples, int64_t batch_tokens)
    : Evaluator(task, model, std::vector<NamedExamples>{{"", std::move(examples)}}, batch_tokens) {}

std::vector<std::string> Evaluator::metric_names() const {
  std::vector<std::string> names;
  for (size_t part = 0; part < parts_.size(); ++part) {
    for (const std::string& name : task_.metrics()) names.push_back(prefix(part) + name);
  }
  return names;
}

void Evaluator::add_part(size_t part, Evaluation& all, const EvaluationProgress& progress) const {
  MetricSet metrics = MetricSet::create(task_.metrics(), task_.num_outputs(), rounding_of(model_));
  metrics.keep_pairs();
  const BatchList& batches = batches_[part];
  for (size_t i = 0; i < batches.size(); ++i) {
    const Batch batch = task_.collate(parts_[part].examples, batches[i], kEvaluationEpoch);
    task_.score(model_, batch, metrics);
    all.examples += static_cast<int64_t>(batches[i].size());
    all.tokens += static_cast<int64_t>(batch.tokens());
    if (progress) progress(all.examples, total_);
  }
  const auto values = metrics.compute();
  for (const std::string& name : metrics.names())
    all.metrics.emplace_back(prefix(part) + name, values.at(name));
  const std::string name = parts_.size() > 1 ? parts_[part].name : "";
  if (metrics.confusion().classes() > 0) all.confusion.emplace_back(name, metrics.confusion());
  if (!metrics.pairs().empty()) all.pairs.emplace_back(name, metrics.pairs());
  if (const std::string note = flatness_note(metrics.moments()); !note.empty()) all.note = note;
}

Evaluation Evaluator::run(const EvaluationProgress& progress) {
  const c10::NoGradGuard no_grad;
  const Stopwatch watch;
  Evaluation all;
  for (size_t part = 0; part < parts_.size(); ++part) add_part(part, all, progress);
  all.seconds = watch.seconds();
  return all;
}

}  // namespace msplora
