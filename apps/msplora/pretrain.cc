#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "msplora/runs/model_files.h"
#include "msplora/runs/pretraining.h"
#include "panel.h"
#include "program.h"
#include "recipe_arguments.h"
#include "report_text.h"

namespace msplora {
namespace {

struct PretrainArguments {
  RecipeArguments recipe;
  bool resume = false;
  std::string save_dtype = "float32";
};

std::string panel_of(const PretrainingRun& run) {
  const PretrainRecipe& recipe = run.recipe;
  const TextCorpusSummary& summary = run.train->summary();
  const double mean =
      static_cast<double>(summary.tokens) / static_cast<double>(std::max<int64_t>(1, summary.sequences));
  int64_t count = 0;
  for (const Parameter& parameter : run.model->parameters()) count += parameter.numel();
  Panel panel;
  panel.add("model", model_line(*run.model, recipe.model.path, recipe.model.random_init));
  panel.add("trainable", fmt::format("{}: all parameters", with_commas(count)));
  panel.add("text", summary.text());
  for (const std::string& note : run.train->notes()) panel.add("note", note);
  if (run.validation) panel.add("validation", run.validation->summary().text());
  if (learns_masked_text(run.config)) {
    panel.add("masking", fmt::format("{:.0f}% of the {}", 100 * recipe.data.mask_probability,
                                     recipe.data.whole_word ? "words" : "tokens"));
  }
  panel.add("optimizer", optimizer_line(recipe.train));
  panel.add("batch", batch_line(recipe.train, mean));
  panel.add("compute", compute_line(recipe.train, run.threads));
  MemoryQuestion memory;
  memory.trainable_parameters = count;
  memory.trains_base = true;
  panel.add("memory", memory_line(estimate_memory(run.model->architecture(), memory, recipe.train, mean,
                                                  summary.tokens)));
  panel.add("output", recipe.output.dir);
  return panel.text();
}

void pretrain(const PretrainArguments& arguments, const CommonOptions& common) {
  const auto recipe =
      load_recipe<PretrainRecipe>(arguments.recipe.file, changes_of(arguments.recipe, common));
  PretrainingRun run = open_run(recipe, {.resume = arguments.resume});
  say(common, "msplora pretrain " + arguments.recipe.file + "\n" + panel_of(run));
  std::vector<std::unique_ptr<EventSink>> sinks;
  sinks.push_back(make_console_sink());
  const RunReport report = train(run, parse_dtype(arguments.save_dtype), std::move(sinks));
  if (!print_report(report, common)) return;
  std::cout << fmt::format("  {:<9} {}\n  {:<9} {}\n", "model", report.model, "metrics",
                           run.directory->metrics().string());
}

}  // namespace

Command add_pretrain(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand("pretrain", "Train all of a model on plain text");
  auto arguments = std::make_shared<PretrainArguments>();
  add_recipe_arguments(*command, arguments->recipe, /*writes=*/true);
  command->add_flag("--resume", arguments->resume,
                    "Continue from the newest checkpoint of the run directory");
  command->add_option("--save-dtype", arguments->save_dtype, "Type of the saved weights")
      ->transform(dtype_choice({"float32", "bfloat16", "float16"}));
  add_recipe_help<PretrainRecipe>(*command);
  add_common(*command, common);
  return {command, [arguments, &common] { pretrain(*arguments, common); }, kLessMemoryInTraining};
}

}  // namespace msplora
