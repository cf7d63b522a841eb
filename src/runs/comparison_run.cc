// A comparison on disk: its directory, and how its trainings are started.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/adapters/planning.h"
#include "msplora/core/file.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/option_io.h"
#include "msplora/core/paths.h"
#include "msplora/runs/compare.h"
#include "msplora/runs/model_files.h"
#include "msplora/runs/recipe_file.h"
#include "runs/layer_ranks.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

/// Keys in which two recipes differ, apart from where they write and how many threads they use.
std::vector<std::string> differences(const Recipe& before, const Recipe& now) {
  nlohmann::json a = recipe_to_json(before), b = recipe_to_json(now);
  for (nlohmann::json* json : {&a, &b}) {
    json->erase("output");
    (*json)["train"].erase("threads");
  }
  std::vector<std::string> keys;
  const nlohmann::json difference = nlohmann::json::diff(a, b);
  for (const nlohmann::json& change : difference) {
    std::string key = change.at("path").get<std::string>().substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    keys.push_back(std::move(key));
  }
  return keys;
}

/// A directory that another plan has used is refused: its checkpoints belong to other options.
void check_same_recipe(const PlannedRun& run, const fs::path& path) {
  std::error_code code;
  if (!fs::exists(path, code)) return;
  Recipe recorded = recorded_recipe(path);
  forget_settled_ranks(recorded, run.recipe);
  const auto keys = differences(recorded, run.recipe);
  if (keys.empty()) return;
  throw Error(ErrorCode::kConfig, path.string(),
              fmt::format("the run was made with other options: {}", fmt::join(keys, ", ")),
              "choose another --output, or --overwrite to run everything again");
}

/// Every training of a comparison reads the data anew.
void require_files(const DataConfig& data) {
  for (const fs::path& file : files_of(data))
    if (!directory_exists(file)) require_file(file);
}

}  // namespace

Run check_run(const CompareRecipe& recipe, ErrorList& errors) {
  attempt(errors, [&] { require_files(recipe.data); });
  Run run = check_run(static_cast<const Recipe&>(recipe), errors, /*with_adapter=*/false);
  if (run.config.model_type.empty()) return run;
  attempt(errors, [&] {
    const ComparisonPlan plan = plan_comparison(recipe, comparison_base(run.config));
    if (!run.data.task) return;
    for (const PlannedMethod& method : plan.methods)
      check_method_run(method.recipe.adapter, run_facts(run), errors);
  });
  return run;
}

ComparisonRun open_run(const CompareRecipe& recipe, const OpenOptions& options) {
  require_files(recipe.data);
  ComparisonRun run;
  run.recipe = recipe;
  const ModelConfig config = load_supported_config(recipe.model.path);
  run.recipe.adapter = with_default_targets(recipe.adapter, config.model_type);
  run.plan = plan_comparison(run.recipe, comparison_base(config));
  run.directory = std::make_unique<RunDirectory>(recipe.output, options.resume);
  if (recipe.output.overwrite && !options.resume) {
    const fs::path runs = run.directory->path() / comparison_files::kRuns;
    refuse_input_as_output(runs, files_of(recipe.data), "output.dir");
    remove_path(runs);
  }
  write_file_atomically(run.directory->recipe(), to_yaml(run.recipe));
  return run;
}

Launch in_this_process() {
  return [](const fs::path& recipe, const fs::path&) -> std::string {
    try {
      Run run = open_run(load_recipe(recipe), {.resume = true});
      train(run);
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  };
}

RunOutcome train_planned(const PlannedRun& run, const Launch& launch) {
  const fs::path directory = run.recipe.output.dir, recipe = directory / kRecipeFile;
  check_same_recipe(run, recipe);
  std::error_code code;
  if (fs::exists(directory / kReportFile, code)) return read_outcome(run);
  make_directories(directory);
  write_file_atomically(recipe, to_yaml(run.recipe));
  const fs::path log = directory / "train.log";
  const std::string failure = launch(recipe, log);
  if (interrupt_requested()) {
    throw Error(ErrorCode::kInterrupted, "compare", fmt::format("stopped in {}", run.name),
                "continue with --resume");
  }
  if (failure.empty()) return read_outcome(run);
  RunOutcome failed = outcome_of(run);
  failed.error = failure;
  if (fs::exists(log, code)) failed.log = log.string();
  return failed;
}

}  // namespace msplora
