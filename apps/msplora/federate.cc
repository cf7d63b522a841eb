#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "federated_data.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/log.h"
#include "msplora/federated/federation.h"
#include "msplora/train/runtime.h"
#include "msplora/train/tensorboard.h"
#include "panel.h"
#include "program.h"
#include "recipe_file.h"
#include "run_check.h"
#include "run_outputs.h"
#include "session.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct FederateArguments {
  RecipeArguments recipe;
  bool resume = false;
};

/// Everything a run works on; the federation is destroyed before the model that it trains.
struct FederatedRun {
  FederateRecipe recipe;
  int threads = 0;
  PreparedData data;
  ModelLoadReport report;
  std::unique_ptr<Model> model;
  ClientSplit split;
  std::unique_ptr<Federation> federation;
};

std::string aggregation_line(const FederatedOptions& options) {
  std::string text = options.aggregator;
  if (const auto& line = aggregator_kind(options.aggregator).line) text += line(options.own());
  text += options.weighting == "examples" ? ", clients weighed by their examples"
                                          : ", all clients weigh the same";
  if (options.client_ranks.empty()) return text;
  return text + fmt::format(", ranks {}", fmt::join(options.client_ranks, " "));
}

std::string rounds_line(const FederateRecipe& recipe) {
  const TrainOptions& train = recipe.train;
  const std::string work =
      train.max_steps > 0 ? fmt::format("{} steps", train.max_steps) : fmt::format("{} epochs", train.epochs);
  return fmt::format("{} of {} for each of {:.0f}% of the clients", recipe.federated.rounds, work,
                     100 * recipe.federated.fraction);
}

std::string panel_of(const FederatedRun& run) {
  const FederateRecipe& recipe = run.recipe;
  const double mean = run.data.train.summary.mean();
  Panel panel;
  panel.add("model", model_line(*run.model, recipe.model.path, recipe.model.random_init));
  if (!recipe.model.random_init) {
    panel.add("head", head_line(run.report, load_model_config(recipe.model.path), recipe.train.seed));
  }
  panel.add("method", method_line(recipe.adapter));
  panel.add("server", aggregation_line(recipe.federated));
  panel.add("rounds", rounds_line(recipe));
  for (const std::string& note : run.data.notes) panel.add("data", note);
  panel.add("train", part_line(run.data.train));
  panel.add("clients", clients_line(run.split, recipe.federated));
  for (const EncodedPart& part : run.data.validation) panel.add(part.name, part_line(part));
  for (const EncodedPart& part : run.data.test) panel.add(part.name, part_line(part));
  panel.add("optimizer", optimizer_line(recipe.train) + ", over all rounds");
  panel.add("batch", batch_line(recipe.train, mean));
  panel.add("compute",
            fmt::format("{} on {} threads, seed {}", recipe.train.dtype, run.threads, recipe.train.seed));
  panel.add("output", recipe.output.dir);
  return panel.text();
}

FederationSetup make_setup(FederatedRun& run, bool resume) {
  const FederateRecipe& recipe = run.recipe;
  FederationSetup setup;
  setup.options = recipe.federated;
  setup.adapter = recipe.adapter;
  setup.train = recipe.train;
  setup.target = adapter_target(*run.model, recipe.model.path);
  setup.clients = std::move(run.split.clients);
  setup.task = run.data.task.get();
  setup.validation = named(run.data.validation);
  setup.batches = batch_options(recipe.train, recipe.data);
  setup.eval_batch_tokens = recipe.train.eval_batch_tokens;
  setup.where = [&data = run.data.train.data](size_t row) { return data.where(row); };
  setup.directory = recipe.output.dir;
  setup.resume = resume;
  setup.recipe = recipe_to_json(recipe);
  return setup;
}

std::string line_of(const RoundReport& report, int64_t rounds) {
  std::string text = fmt::format("round {}/{}", report.round, rounds);
  text +=
      report.skipped ? "  skipped: too few usable updates" : fmt::format("  loss {:.4f}", report.train_loss);
  if (report.global) text += "  " + format_metrics(*report.global);
  if (report.client_scores) {
    text += fmt::format("  clients {:.4f} (worst {:.4f})", report.client_scores->mean,
                        report.client_scores->worst);
  }
  if (!report.skipped) text += fmt::format("  aggregation error {:.2g}", report.aggregation.error);
  return text + fmt::format("  down {}  up {}  {:.1f} s", bytes_text(report.down.total()),
                            bytes_text(report.up.total()), report.seconds);
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

FederatedRun load_run(const FederateRecipe& recipe) {
  FederatedRun run;
  run.recipe = recipe;
  run.threads = use_threads(recipe.train.threads);
  const ModelConfig config = load_supported_config(recipe.model.path);
  run.recipe.adapter = with_default_targets(recipe.adapter, config.model_type);
  const auto tokenizer = load_tokenizer(recipe.model.path, config);
  run.data = prepare_data(recipe, config, tokenizer);
  ErrorList errors;
  check_run(recipe, run.data, errors);
  errors.throw_if_any(ErrorCode::kConfig, "the recipe cannot be run");
  run.split = split_clients(recipe, run.data);
  run.data.train.examples = {};  // the clients hold them now
  run.model = open_classifier(recipe, config, run.data.task->num_outputs(), &run.report);
  return run;
}

Json trainable_counts(const std::vector<TrainableTensor>& trainable) {
  int64_t total = 0, head = 0, bias = 0;
  for (const TrainableTensor& tensor : trainable) {
    const int64_t count = tensor.tensor.numel();
    total += count;
    if (tensor.group == ParameterGroup::kHead) head += count;
    if (tensor.group == ParameterGroup::kBias) bias += count;
  }
  return {{"total", total}, {"adapter", total - head - bias}, {"bias", bias}, {"head", head}};
}

/// metrics.json. The counts of parameters are those of the adapter that is handed out.
Json summary_of(const FederatedRun& run, const Adapter& adapter) {
  const ServerState& state = run.federation->state();
  const FederateRecipe& recipe = run.recipe;
  Json last = Json::object();
  for (const auto& [name, value] : state.last_metrics) last[name] = value;
  const std::string best = recipe.train.best_metric;
  Json summary = {
      {"method", fmt::format("{} ({})", recipe.adapter.method, recipe.federated.aggregator)},
      {"trainable_parameters", trainable_counts(adapter.trainable())},
      {"rounds", state.round},
      {"clients", recipe.federated.clients},
      {"steps", state.steps},
      {"seconds", state.seconds},
      {"train_seconds", state.train_seconds},
      {"tokens", state.tokens},
      {"tokens_per_second",
       state.train_seconds > 0 ? static_cast<double>(state.tokens) / state.train_seconds : 0.0},
      {"best_metric", !best.empty() || state.last_metrics.empty() ? best : state.last_metrics.front().first},
      {"last", std::move(last)},
      {"bytes", {{"down", to_json(state.total_down)}, {"up", to_json(state.total_up)}}},
      {"partition", partition_to_json(run.split)},
      {"seed", recipe.train.seed},
      {"dtype", recipe.train.dtype},
      {"peak_memory_bytes", peak_memory_bytes()}};
  return summary;
}

void federate(const FederateArguments& arguments, const CommonOptions& common) {
  const FederateRecipe recipe = load_recipe<FederateRecipe>(arguments.recipe, common);
  const RunDirectory run_directory(recipe.output.dir, recipe.output.overwrite, arguments.resume);
  FederatedRun run = load_run(recipe);
  std::ostream& out = common.json ? std::cerr : std::cout;
  out << "msplora federate " << arguments.recipe.file << "\n" << panel_of(run) << std::flush;

  const fs::path directory = recipe.output.dir;
  FederationSetup setup = make_setup(run, arguments.resume);
  std::optional<TensorBoardWriter> scalars;
  setup.on_round = [&](const RoundReport& report) {
    for (const Rejection& entry : report.rejected) {
      log_warning(
          fmt::format("round {}: client {} is left out: {}", report.round, entry.client, entry.reason));
    }
    log_info(line_of(report, recipe.federated.rounds));
    if (scalars) write_scalars(*scalars, report);
  };
  run.federation = std::make_unique<Federation>(std::move(setup), *run.model);
  if (!arguments.resume) remove_earlier_results(directory);
  write_file_atomically(directory / "recipe.yaml", to_yaml(run.recipe));
  const int64_t done = run.federation->state().round;
  if (arguments.resume) {
    log_info(done > 0 ? fmt::format("resumed after round {}", done)
                      : std::string("no round to resume from; starting at the beginning"));
  }
  if (recipe.output.tensorboard) scalars.emplace(directory, done > 0 ? done : -1);
  run.federation->run();
  if (!run.federation->finished()) {
    const int64_t round = run.federation->state().round;
    out << fmt::format("paused after round {} of {}; continue with --resume\n", round,
                       recipe.federated.rounds);
    if (common.json) print_json({{"run", recipe.output.dir}, {"paused", true}, {"rounds", round}});
    return;
  }

  const std::unique_ptr<Adapter> adapter = run.federation->global_adapter();
  Json summary = summary_of(run, *adapter);
  Json classes = Json::object();
  summary["test"] = evaluate_test(*run.model, run.data, recipe, classes);
  if (!classes.empty()) summary["classes"] = classes;
  summary["adapter"] = save_adapters(*adapter, recipe, facts_of(recipe, run.data));
  summary["run"] = recipe.output.dir;
  summary["model"] = recipe.model.path;
  write_file_atomically(directory / "metrics.json", summary.dump(2) + "\n");
  if (common.json) return print_json(summary);
  const ServerState& state = run.federation->state();
  std::cout << fmt::format("done: {} rounds in {:.1f} s; sent down {}, up {}\n", state.round, state.seconds,
                           bytes_text(state.total_down.total()), bytes_text(state.total_up.total()))
            << closing_lines(summary, recipe.output.dir)
            << fmt::format("  {:<15} {}\n", "rounds", (directory / "rounds.jsonl").string());
}

}  // namespace

Command add_federate(CLI::App& program, CommonOptions& common) {
  CLI::App* command =
      program.add_subcommand("federate", "Fine-tune on the data of many clients, in one process");
  auto arguments = std::make_shared<FederateArguments>();
  add_recipe_arguments(*command, arguments->recipe, /*writes=*/true);
  command->add_flag("--resume", arguments->resume, "Continue after the newest round of the run directory");
  add_recipe_help<FederateRecipe>(*command);
  add_common(*command, common);
  return {command, [arguments, &common] { federate(*arguments, common); }};
}

}  // namespace msplora
