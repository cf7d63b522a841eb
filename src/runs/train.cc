// Training as a recipe says, and what is left of it.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/adapters/files.h"
#include "msplora/adapters/fingerprint.h"
#include "msplora/core/log.h"
#include "msplora/core/option_io.h"
#include "msplora/runs/run.h"
#include "msplora/train/runtime.h"
#include "msplora/train/training_data.h"
#include "runs/opening.h"
#include "runs/samples.h"

namespace msplora {
namespace {

std::optional<MetricValues> values_of(const std::optional<Evaluation>& evaluation) {
  return evaluation ? std::optional(evaluation->metrics) : std::nullopt;
}

/// What the classes of the validation data came to, with the weights that the run ended with.
void report_validation(const Run& run, const TrainingResult& result, RunReport& report) {
  const auto& kept = run.recipe.train.load_best_at_end && result.best ? result.best : result.last;
  if (!kept) return;
  if (run.data.labels) report.classes["validation"] = class_report(*kept, run.data.labels->names());
  if (!kept->note.empty()) log_warning("validation: " + kept->note);
}

}  // namespace

RunReport report_of(const TrainingResult& result, const TrainOptions& options, const std::string& method,
                    const std::vector<TrainableTensor>& trainable) {
  RunReport report;
  report.method = method;
  report.trainable = count_trainable(trainable);
  report.steps = result.steps;
  report.total_steps = result.total_steps;
  report.stopped_early = result.stopped_early;
  report.last_loss = result.last_loss;
  report.best_metric = result.best_metric;
  report.best = values_of(result.best);
  report.best_step = result.best_step;
  report.last = values_of(result.last);
  report.seconds = result.seconds;
  report.cpu_seconds = result.cpu_seconds;
  report.train_seconds = result.train_seconds;
  report.tokens = result.tokens;
  report.tokens_per_second = result.tokens_per_second;
  report.peak_memory_bytes = result.peak_memory_bytes;
  report.seed = options.seed;
  report.dtype = options.dtype;
  report.threads = at::get_num_threads();
  report.versions["libtorch"] = TORCH_VERSION;
  report.search = result.search;
  report.paused = result.paused;
  report.whole = result.total_steps;
  return report;
}

TrainerSetup trainer_setup(const TrainOptions& train, const OutputOptions& output,
                           const RunDirectory& directory, const std::string& recipe_yaml, bool resume,
                           std::vector<std::unique_ptr<EventSink>> sinks) {
  TrainerSetup setup;
  setup.options = train;
  setup.directory = directory.path();
  setup.resume = resume;
  setup.sinks.push_back(directory.beginning(recipe_yaml));
  for (auto& sink : sinks) setup.sinks.push_back(std::move(sink));
  setup.sinks.push_back(make_jsonl_sink(directory.path() / kLogFile));
  if (output.tensorboard) setup.sinks.push_back(make_tensorboard_sink(directory.path()));
  return setup;
}

void evaluate_test(const Task& task, Model& model, const RunData& data, int64_t batch_tokens,
                   RunReport& report) {
  report.test.emplace();
  for (const EncodedPart& part : data.test) {
    const LabelKind labels = data.kind->labels;
    const bool needs_labels = labels == LabelKind::kClass || labels == LabelKind::kNumber;
    if (needs_labels && !part.data.has_labels()) continue;
    const Evaluation evaluation = Evaluator(task, model, part.all(), batch_tokens).run();
    log_info(fmt::format("{}: {}", part.name, format_metrics(evaluation)));
    if (!evaluation.note.empty()) log_warning(fmt::format("{}: {}", part.name, evaluation.note));
    if (!evaluation.pairs.empty()) report.test_pairs.emplace_back(part.name, evaluation.pairs.front().second);
    if (data.labels) report.classes[part.name] = class_report(evaluation, data.labels->names());
    for (const auto& [name, value] : evaluation.metrics)
      report.test->emplace_back(data.test.size() > 1 ? part.name + "_" + name : name, value);
  }
}

std::map<std::string, std::string> save_adapters(const Adapter& adapter, const OutputOptions& output,
                                                 const RunDirectory& directory, const TaskFacts& facts) {
  std::map<std::string, std::string> saved;
  const auto place = [&](const char* form) {
    saved[form] = directory.adapter(form).string();
    return directory.adapter(form);
  };
  const std::string refusal = peft_form_refusal(adapter);
  if (output.save_peft && refusal.empty()) {
    save_peft_adapter(adapter, place("peft"));
    save_task_facts(facts, directory.adapter("peft"));
  } else if (output.save_peft) {
    log_info(fmt::format("no PEFT adapter is written: {}", refusal));
  }
  if (output.save_native || saved.empty()) {
    save_native_adapter(adapter, place("native"));
    save_task_facts(facts, directory.adapter("native"));
  }
  return saved;
}

MemoryEstimate step_memory(const Run& run) {
  const EncodeSummary& text = run.data.train.summary;
  MemoryQuestion question = memory_question(*run.adapter);
  question.bytes_in_products = bytes_in_products(run.model->parameters(), run.model->compute_dtype());
  return estimate_memory(run.model->architecture(), question, run.recipe.train, text.mean(), text.tokens);
}

RunReport train(Run& run, std::vector<std::unique_ptr<EventSink>> sinks) {
  const detail::TrainingScope scope(run);
  const TrainOptions& options = run.recipe.train;
  TrainingData data(*run.data.task, *run.model, run.data.train.all(), batch_options(options, run.recipe.data),
                    named(run.data.validation), options.eval_batch_tokens);
  if (!options.samples.prompts.empty()) sinks.push_back(make_sample_sink(run, sinks));
  TrainerSetup setup = trainer_setup(options, run.recipe.output, *run.directory, to_yaml(run.recipe),
                                     run.resume, std::move(sinks));
  setup.method = run.recipe.adapter.method;
  setup.trainable = run.adapter->trainable();
  setup.adapter = run.adapter.get();
  setup.recipe = recipe_to_json(run.recipe);
  setup.base_fingerprint = run_fingerprint(run.adapter->target());
  if (run.model->device().is_cpu()) {
    constexpr double kSurelyUsed = 0.75;
    touch_memory_ahead(static_cast<int64_t>(kSurelyUsed * static_cast<double>(step_memory(run).total())));
  }
  const TrainingResult result = Trainer(std::move(setup), data).run();

  RunReport report = report_of(result, options, run.recipe.adapter.method, run.adapter->trainable());
  report.run = run.recipe.output.dir;
  report.model = run.recipe.model.path;
  if (result.paused) return report;
  report.rank_estimation_seconds = run.ranks.seconds;
  report_validation(run, result, report);
  evaluate_test(*run.data.task, *run.model, run.data, options.eval_batch_tokens, report);
  report.adapters =
      save_adapters(*run.adapter, run.recipe.output, *run.directory, facts_of(run.recipe, run.data));
  report.warnings = run.warnings;
  run.directory->write(report);
  return report;
}

}  // namespace msplora
