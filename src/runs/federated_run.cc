#include "msplora/runs/federated_run.h"

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/log.h"
#include "msplora/core/option_io.h"
#include "msplora/runs/model_files.h"
#include "msplora/tasks/target.h"
#include "msplora/train/runtime.h"
#include "msplora/train/tensorboard.h"
#include "msplora/train/training_data.h"
#include "runs/opening.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

Json partition_json(const ClientSplit& split) {
  Json json = {{"sizes", split.sizes}};
  if (split.report.counts.empty()) return json;
  json["labels"] = split.labels;
  json["counts"] = split.report.counts;
  json["effective_classes"] = split.report.effective_classes;
  json["mean_total_variation"] = split.report.mean_total_variation;
  return json;
}

void write_scalars(TensorBoardWriter& writer, const RoundReport& report) {
  writer.scalar("train/loss", report.train_loss, report.round);
  writer.scalar("aggregation/error", report.aggregation.error, report.round);
  writer.scalar("aggregation/cosine", report.aggregation.cosine, report.round);
  writer.scalar("bytes/down", static_cast<double>(report.total_down.total()), report.round);
  writer.scalar("bytes/up", static_cast<double>(report.total_up.total()), report.round);
  if (report.global) {
    for (const auto& [name, value] : report.global->metrics)
      writer.scalar("evaluation/" + name, value, report.round);
  }
  if (report.client_scores) {
    writer.scalar("clients/mean", report.client_scores->mean, report.round);
    writer.scalar("clients/worst", report.client_scores->worst, report.round);
  }
  writer.flush();
}

FederationSetup setup_of(FederatedRun& run) {
  const Recipe& recipe = run.recipe;
  FederationSetup setup;
  setup.options = run.federated;
  setup.adapter = recipe.adapter;
  setup.train = recipe.train;
  setup.target = target_of(*run.model, recipe.model.path);
  setup.clients = std::move(run.split.clients);
  setup.task = run.data.task.get();
  setup.validation = named(run.data.validation);
  setup.batches = batch_options(recipe.train, recipe.data);
  setup.eval_batch_tokens = recipe.train.eval_batch_tokens;
  setup.where = [&data = run.data.train.data](size_t row) { return data.where(row); };
  setup.directory = run.directory->path();
  setup.resume = run.resume;
  setup.recipe = recipe_to_json(run.whole_recipe());
  return setup;
}

/// The counts of parameters are those of the adapter that is handed out.
RunReport report_of(const FederatedRun& run, const Adapter& adapter) {
  const ServerState& state = run.federation->state();
  const TrainOptions& train = run.recipe.train;
  RunReport report;
  report.method = fmt::format("{} ({})", run.recipe.adapter.method, run.federated.aggregator);
  report.trainable = count_trainable(adapter.trainable());
  report.rounds = state.round;
  report.clients = run.federated.clients;
  report.steps = state.steps;
  report.seconds = state.seconds;
  report.train_seconds = state.train_seconds;
  report.tokens = state.tokens;
  if (state.train_seconds > 0)
    report.tokens_per_second = static_cast<double>(state.tokens) / state.train_seconds;
  const bool is_named = !train.best_metric.empty() || state.last_metrics.empty();
  report.best_metric = is_named ? train.best_metric : state.last_metrics.front().first;
  report.last = state.last_metrics;
  report.bytes = {{"down", to_json(state.total_down)}, {"up", to_json(state.total_up)}};
  report.partition = partition_json(run.split);
  report.seed = train.seed;
  report.dtype = train.dtype;
  report.peak_memory_bytes = peak_memory_bytes();
  return report;
}

}  // namespace

ClientSplit split_clients(const FederateRecipe& recipe, const RunData& data) {
  const FederatedOptions& options = recipe.federated;
  if (recipe.data.train && recipe.data.train->has_weights()) {
    throw Error(ErrorCode::kConfig, "data.train",
                "clients go through their own examples; weights are not for them", "remove the weights");
  }
  PartitionInput input;
  input.examples = data.train.examples.size();
  if (data.labels) {
    for (const TokenizedExample& example : data.train.examples) input.labels.push_back(example.label);
  }
  if (recipe.data.group) {
    for (const Example& example : data.train.data.examples()) input.groups.push_back(example.group);
  }
  const auto seed = static_cast<uint64_t>(recipe.train.seed);
  const Partition partition = make_partition(options.partition, options.clients, input, seed);
  ClientSplit split;
  split.clients = divide(data.train.examples, partition, options.held_out, seed);
  for (const auto& part : partition) split.sizes.push_back(static_cast<int64_t>(part.size()));
  if (data.labels) {
    split.labels = data.labels->names();
    split.report = describe_partition(partition, input.labels, data.labels->size());
  }
  return split;
}

FederateRecipe FederatedRun::whole_recipe() const {
  FederateRecipe whole;
  static_cast<Recipe&>(whole) = recipe;
  whole.federated = federated;
  return whole;
}

FederatedRun check_run(const FederateRecipe& recipe, ErrorList& errors) {
  FederatedRun run;
  run.federated = recipe.federated;
  static_cast<Run&>(run) = check_run(static_cast<const Recipe&>(recipe), errors);
  if (!run.data.train.examples.empty()) attempt(errors, [&] { run.split = split_clients(recipe, run.data); });
  return run;
}

FederatedRun open_run(const FederateRecipe& recipe, const OpenOptions& options) {
  return detail::opened(options, [&] {
    FederatedRun run = detail::checked_run(recipe, options);
    run.data.train.examples = {};  // the clients hold them now
    detail::open_model_of(run);
    return run;
  });
}

RunReport run_rounds(FederatedRun& run, const std::function<void(const RoundReport&)>& on_round,
                     const std::function<void(int64_t done)>& on_begin) {
  const detail::TrainingScope scope(run);
  FederationSetup setup = setup_of(run);
  std::optional<TensorBoardWriter> scalars;
  setup.on_round = [&](const RoundReport& report) {
    if (on_round) on_round(report);
    if (scalars) write_scalars(*scalars, report);
  };
  run.federation = std::make_unique<Federation>(std::move(setup), *run.model);
  run.directory->begin(to_yaml(run.whole_recipe()), run.resume);
  const int64_t done = run.federation->state().round;
  if (on_begin) on_begin(done);
  if (run.recipe.output.tensorboard) scalars.emplace(run.directory->path(), done > 0 ? done : -1);
  run.federation->run();

  const bool paused = !run.federation->finished();
  if (paused) {
    RunReport report;
    report.paused = true;
    report.rounds = run.federation->state().round;
    report.whole = run.federated.rounds;
    report.run = run.recipe.output.dir;
    return report;
  }
  const std::unique_ptr<Adapter> adapter = run.federation->global_adapter();
  RunReport report = report_of(run, *adapter);
  report.run = run.recipe.output.dir;
  report.model = run.recipe.model.path;
  evaluate_test(*run.data.task, *run.model, run.data, run.recipe.train.eval_batch_tokens, report);
  report.adapters =
      save_adapters(*adapter, run.recipe.output, *run.directory, facts_of(run.recipe, run.data));
  report.warnings = run.warnings;
  run.directory->write(report);
  return report;
}

}  // namespace msplora
