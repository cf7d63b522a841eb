#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "class_report.h"
#include "layer_ranks.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/log.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/train/runtime.h"
#include "msplora/train/trainer.h"
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

struct TrainArguments {
  RecipeArguments recipe;
  bool resume = false;
  std::string adapter;  // what people try who know `predict --adapter`
};

/// Everything a run works on. The adapter is destroyed before the model it sits on.
struct TrainRun {
  Recipe recipe;
  int threads = 0;
  std::shared_ptr<const Tokenizer> tokenizer;
  PreparedData data;
  ModelLoadReport report;
  std::unique_ptr<Model> model;
  LayerRanks ranks;
  std::unique_ptr<Adapter> adapter;
};

TrainRun load_run(const Recipe& recipe, bool resume) {
  TrainRun run;
  run.recipe = recipe;
  run.threads = use_threads(recipe.train.threads);
  const ModelConfig config = load_supported_config(recipe.model.path);
  run.recipe.adapter = with_default_targets(recipe.adapter, config.model_type);
  run.tokenizer = load_tokenizer(recipe.model.path, config);
  run.data = prepare_data(recipe, config, run.tokenizer);
  ErrorList errors;
  check_run(recipe, run.data, errors);
  errors.throw_if_any(ErrorCode::kConfig, "the recipe cannot be run");
  run.model = open_classifier(recipe, config, run.data.task->num_outputs(), &run.report);
  run.ranks = settle_layer_ranks(run.recipe, *run.model, run.data.train.all(), resume);
  run.adapter = create_adapter(run.recipe.adapter, adapter_target(*run.model, recipe.model.path),
                               static_cast<uint64_t>(recipe.train.seed));
  return run;
}

std::string panel_of(const TrainRun& run) {
  const Recipe& recipe = run.recipe;
  const PreparedData& data = run.data;
  const double mean = data.train.summary.mean();
  int64_t trainable = 0;
  for (const TrainableTensor& tensor : run.adapter->trainable()) trainable += tensor.tensor.numel();
  // Gradients of a weight need the input of its layer, adapted or not.
  const bool trains_all = trains_whole_base(recipe.adapter);
  const std::vector<Site> adapted = trains_all ? run.model->sites() : run.adapter->sites();
  Panel panel;
  panel.add("model", model_line(*run.model, recipe.model.path, recipe.model.random_init));
  const std::string& start = recipe.adapter.init_from;
  if (start_brings_head(recipe.adapter)) {
    panel.add("head", "the adapter's");
  } else if (!recipe.model.random_init) {
    panel.add("head", head_line(run.report, load_model_config(recipe.model.path), recipe.train.seed));
  }
  panel.add("method", method_line(recipe.adapter));
  if (!start.empty()) {
    const std::string& base = run.adapter->recorded_base();
    panel.add("start", fmt::format("the adapter in {}{}", start, base.empty() ? "" : ", trained on " + base));
  }
  if (!run.ranks.text.empty()) panel.add("ranks", run.ranks.text);
  panel.add("adapted", sites_line(run.adapter->sites()));
  panel.add("trainable", trainable_line(run.adapter->trainable()));
  if (data.labels) {
    panel.add("labels", fmt::format("{}: {}", data.labels->size(), shortened(data.labels->names(), 12)));
  }
  for (const auto* notes : {&data.train.data.notes(), &data.notes}) {
    for (const std::string& note : *notes) panel.add("data", note);
  }
  panel.add("train", part_line(data.train));
  for (const auto* parts : {&data.validation, &data.test}) {
    for (const EncodedPart& part : *parts) panel.add(part.name, part_line(part));
  }
  if (data.is_shortened) {
    panel.add("length", fmt::format("data.max_length {} is more than the model takes; {} is used",
                                    recipe.data.max_length, data.max_length));
  }
  panel.add("optimizer", optimizer_line(recipe.train));
  const std::string state = method_state_line(*run.adapter, recipe.train.optimizer);
  if (!state.empty()) panel.add("state", state);
  panel.add("batch", batch_line(recipe.train, mean));
  panel.add("compute",
            fmt::format("{} on {} threads, seed {}", recipe.train.dtype, run.threads, recipe.train.seed));
  panel.add("memory", memory_line(run.model->architecture(), adapted, trainable, recipe.train, mean));
  panel.add("output", recipe.output.dir);
  return panel.text();
}

TrainerSetup make_setup(const TrainRun& run, bool resume) {
  TrainerSetup setup;
  setup.options = run.recipe.train;
  setup.directory = run.recipe.output.dir;
  setup.resume = resume;
  setup.method = run.recipe.adapter.method;
  setup.trainable = run.adapter->trainable();
  setup.adapter = run.adapter.get();
  setup.recipe = recipe_to_json(run.recipe);
  setup.base_fingerprint = run.adapter->target().base_fingerprint;
  setup.sinks.push_back(make_recipe_sink(setup.directory, to_yaml(run.recipe)));
  setup.sinks.push_back(make_console_sink());
  setup.sinks.push_back(make_jsonl_sink(setup.directory / "metrics.jsonl"));
  if (run.recipe.output.tensorboard) setup.sinks.push_back(make_tensorboard_sink(setup.directory));
  return setup;
}

void train(const TrainArguments& arguments, const CommonOptions& common) {
  if (!arguments.adapter.empty()) {
    throw Error(ErrorCode::kUsage, "--adapter",
                "is no option of train: what a run starts from is in its recipe",
                fmt::format("to go on from an adapter: --set adapter.init_from={}", arguments.adapter));
  }
  const Recipe recipe = load_recipe<Recipe>(arguments.recipe, common);
  const RunDirectory run_directory(recipe.output.dir, recipe.output.overwrite, arguments.resume);
  TrainRun run = load_run(recipe, arguments.resume);
  std::ostream& out = common.json ? std::cerr : std::cout;
  out << "msplora train " << arguments.recipe.file << "\n" << panel_of(run) << std::flush;

  const fs::path directory = recipe.output.dir;
  TrainingData data(*run.data.task, *run.model, run.data.train.all(),
                    batch_options(recipe.train, recipe.data), named(run.data.validation),
                    recipe.train.eval_batch_tokens);
  const TrainingResult result = Trainer(make_setup(run, arguments.resume), data).run();
  if (result.paused) {
    out << fmt::format("paused after step {} of {}; continue with --resume\n", result.steps,
                       result.total_steps);
    if (common.json) print_json({{"run", recipe.output.dir}, {"paused", true}, {"steps", result.steps}});
    return;
  }

  Json summary = training_summary(result, recipe.train, recipe.adapter.method, run.adapter->trainable());
  if (run.ranks.seconds) summary["rank_estimation_seconds"] = *run.ranks.seconds;
  Json classes = Json::object();
  const auto& kept = recipe.train.load_best_at_end && result.best ? result.best : result.last;
  if (kept && run.data.labels) classes["validation"] = class_report(*kept, run.data.labels->names());
  if (kept && !kept->note.empty()) log_warning("validation: " + kept->note);
  summary["test"] = evaluate_test(*run.model, run.data, recipe, classes);
  if (!classes.empty()) summary["classes"] = classes;
  summary["adapter"] = save_adapters(*run.adapter, recipe, facts_of(recipe, run.data));
  if (const auto warnings = logged_warnings(); !warnings.empty()) summary["warnings"] = warnings;
  summary["run"] = recipe.output.dir;
  summary["model"] = recipe.model.path;
  write_file_atomically(directory / "metrics.json", summary.dump(2) + "\n");
  if (common.json) {
    print_json(summary);
  } else {
    std::cout << fmt::format("done: {} steps in {:.1f} s, {:.0f} tokens/s\n", result.steps, result.seconds,
                             result.tokens_per_second)
              << closing_lines(summary, recipe.output.dir);
  }
}

}  // namespace

Command add_train(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand("train", "Fine-tune a model as a recipe says");
  auto arguments = std::make_shared<TrainArguments>();
  add_recipe_arguments(*command, arguments->recipe, /*writes=*/true);
  command->add_option("--adapter", arguments->adapter)->group("");
  command->add_flag("--resume", arguments->resume,
                    "Continue from the newest checkpoint of the run directory");
  add_recipe_help<Recipe>(*command);
  add_common(*command, common);
  return {command, [arguments, &common] { train(*arguments, common); }};
}

}  // namespace msplora
