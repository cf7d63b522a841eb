#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "msplora/runs/run.h"
#include "panel.h"
#include "program.h"
#include "recipe_arguments.h"
#include "report_text.h"

namespace msplora {
namespace {

struct TrainArguments {
  RecipeArguments recipe;
  bool resume = false;
  std::string adapter;  // what people try who know `predict --adapter`
};

std::string panel_of(const Run& run) {
  const Recipe& recipe = run.recipe;
  const RunData& data = run.data;
  const double mean = data.train.summary.mean();
  Panel panel;
  panel.add("model", model_line(*run.model, recipe.model.path, recipe.model.random_init));
  if (const std::string weights = weights_line(*run.model); !weights.empty()) panel.add("frozen", weights);
  const std::string& start = recipe.adapter.init_from;
  const std::string head = head_line(run);
  if (!head.empty()) panel.add("head", head);
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
  add_data_lines(data, panel);
  if (data.is_shortened) {
    panel.add("length", fmt::format("data.max_length {} is more than the model takes; {} is used",
                                    recipe.data.max_length, data.max_length));
  }
  panel.add("optimizer", optimizer_line(recipe.train));
  const std::string state = method_state_line(*run.adapter, recipe.train.optimizer);
  if (!state.empty()) panel.add("state", state);
  panel.add("batch", batch_line(recipe.train, mean));
  panel.add("compute", compute_line(recipe.train, run.threads));
  panel.add("memory", memory_line(step_memory(run)));
  panel.add("output", recipe.output.dir);
  return panel.text();
}

void train(const TrainArguments& arguments, const CommonOptions& common) {
  if (!arguments.adapter.empty()) {
    throw Error(ErrorCode::kUsage, "--adapter",
                "is no option of train: what a run starts from is in its recipe",
                fmt::format("to go on from an adapter: --set adapter.init_from={}", arguments.adapter));
  }
  const auto recipe = load_recipe<Recipe>(arguments.recipe.file, changes_of(arguments.recipe, common));
  Run run = open_run(recipe, {.resume = arguments.resume});
  say(common, "msplora train " + arguments.recipe.file + "\n" + panel_of(run));
  std::vector<std::unique_ptr<EventSink>> sinks;
  sinks.push_back(make_console_sink());
  const RunReport report = msplora::train(run, std::move(sinks));
  if (print_report(report, common)) std::cout << closing_lines(report, *run.directory);
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
  return {command, [arguments, &common] { train(*arguments, common); }, kLessMemoryInTraining};
}

}  // namespace msplora
