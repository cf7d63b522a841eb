
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/planning.h"
#include "msplora/nn/device.h"
#include "msplora/runs/run.h"
#include "msplora/train/training_data.h"

namespace msplora {
namespace {

/// Unset where it depends on how lengths fall into batches.
std::optional<int64_t> steps_of(const TrainOptions& train, const EncodedPart& data) {
  if (train.max_steps > 0) return train.max_steps;
  if (train.token_budget) return std::nullopt;
  BatchOptions step = batch_options(train);
  step.batch_size *= train.accumulation;
  const Examples examples = data.all();
  return static_cast<int64_t>(BatchPlan(lengths_of(examples), step, examples.draws)
                                  .count_batches(static_cast<uint64_t>(train.epochs)));
}

void check_metric(const std::string& wanted, const RunData& data, ErrorList& errors) {
  if (data.validation.empty()) return;  // nothing chooses by it
  std::vector<std::string> names;
  for (const EncodedPart& part : data.validation) {
    for (const std::string& name : data.task->metrics())
      names.push_back((data.validation.size() > 1 ? part.name + "_" : std::string()) + name);
  }
  if (wanted.empty() || std::find(names.begin(), names.end(), wanted) != names.end()) return;
  errors.add("train.best_metric",
             fmt::format("the task has no metric `{}`; it has {}", wanted, fmt::join(names, ", ")),
             did_you_mean(wanted, names));
}

}  // namespace

void check_options(const Run& run, ErrorList& errors) {
  const TrainOptions& train = run.recipe.train;
  const RunData& data = run.data;
  try {
    parse_device(train.device);
  } catch (const Error& error) {
    // The options alone have shown it where they were read from a file.
    const auto& known = errors.problems();
    if (std::none_of(known.begin(), known.end(),
                     [](const Error& problem) { return problem.where().ends_with("train.device"); }))
      errors.add("train.device", error.message(), error.hint());
  }
  check_metric(train.best_metric, data, errors);
  if (data.validation.empty()) {
    if (!train.samples.prompts.empty()) {
      errors.add("train.samples.prompts", "are asked at evaluations, but there is no validation data",
                 "data.validation or data.validation_fraction");
    }
    if (train.early_stopping_patience > 0) {
      errors.add("train.early_stopping_patience",
                 "there is no validation data, so no evaluation could stop the run",
                 "data.validation or data.validation_fraction; or remove it");
    }
  }
  if (run.planned) check_method_run(run.recipe.adapter, run_facts(run), errors);
}

RunFacts run_facts(const Run& run) {
  return {steps_of(run.recipe.train, run.data.train), !run.data.validation.empty()};
}

}  // namespace msplora
