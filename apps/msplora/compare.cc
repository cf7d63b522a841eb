#include "msplora/runs/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "child_process.h"
#include "compare_tables.h"
#include "program.h"
#include "recipe_arguments.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kDraws = 1000;  // of the intervals over examples

struct CompareArguments {
  RecipeArguments recipe;
  std::string methods;
  std::string lr_grid;
  int64_t seeds = 0;
  std::string mode;
  std::string reference;
  std::string output;
  bool resume = false;
};

/// Options of the command line are overrides with a shorter name.
RecipeArguments with_options(const CompareArguments& arguments) {
  RecipeArguments recipe = arguments.recipe;
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) recipe.overrides.push_back(fmt::format("{}={}", key, value));
  };
  add("compare.methods", arguments.methods.empty() ? "" : "[" + arguments.methods + "]");
  add("compare.lr_grid", arguments.lr_grid.empty() ? "" : "[" + arguments.lr_grid + "]");
  add("compare.seeds", arguments.seeds > 0 ? std::to_string(arguments.seeds) : "");
  add("compare.mode", arguments.mode);
  add("compare.reference", arguments.reference);
  add("output.dir", arguments.output);
  return recipe;
}

/// What the child said last, without its progress lines.
std::string last_error(const fs::path& log) {
  const std::string text = read_file(log);
  const std::string mark = "msplora: error: ";
  const size_t at = text.rfind(mark);
  if (at == std::string::npos) return {};
  std::string message = text.substr(at + mark.size());
  while (!message.empty() && message.back() == '\n') message.pop_back();
  return message;
}

/// Trains in a process of its own, so that its peak of memory is its own too.
std::string train_in_child(const fs::path& recipe, const fs::path& log) {
  const ProgramExit result = run_program({"train", recipe.string(), "--resume"}, log);
  if (result.signal != 0) return fmt::format("ended by signal {}", result.signal);
  if (result.exit_code == 0) return {};
  const std::string error = last_error(log);
  return error.empty() ? fmt::format("ended with code {}", result.exit_code) : error;
}

std::string outcome_line(const RunOutcome& run) {
  // Why stands below the table, once for all runs that failed so.
  if (!run.error.empty())
    return fmt::format("{}: failed{}", run.name, run.log.empty() ? "" : fmt::format(", log: {}", run.log));
  return fmt::format("{}: {} {:.4f} in {:.1f} s", run.name, run.metric, run.score.value_or(NAN), run.seconds);
}

void check_any_done(const Comparison& comparison) {
  const RunOutcome* first = nullptr;
  for (const ComparisonRow& row : comparison.rows) {
    for (const RunOutcome& run : row.runs) {
      if (run.error.empty()) return;
      if (first == nullptr) first = &run;
    }
  }
  throw Error(ErrorCode::kModel, "compare", "every run failed",
              first == nullptr     ? ""
              : first->log.empty() ? fmt::format("{}: {}", first->name, first->error)
                                   : fmt::format("{}: {} (log: {})", first->name, first->error, first->log));
}

void compare(const CompareArguments& arguments, const CommonOptions& common) {
  const RecipeArguments given = with_options(arguments);
  const ComparisonRun run = open_run(load_recipe<CompareRecipe>(given.file, changes_of(given, common)),
                                     {.resume = arguments.resume});
  const ComparisonPlan& plan = run.plan;
  size_t done = 0;
  const auto train_one = [](const PlannedRun& planned) { return train_planned(planned, train_in_child); };
  Comparison comparison =
      run_comparison(plan, train_one, [&](const Comparison& now, const RunOutcome& outcome) {
        say(common, fmt::format("[{}/{}] {}\n", ++done, planned_runs(plan, now),
                                printable_line(outcome_line(outcome))));
        Comparison shown = now;
        contrast_with_reference(shown, plan.options.reference, /*draws=*/0);
        write_comparison(plan, shown);
      });
  contrast_with_reference(comparison, plan.options.reference, kDraws);
  write_comparison(plan, comparison);
  check_any_done(comparison);
  if (common.json) return print_json(comparison_to_json(plan, comparison));
  std::cout << "\n"
            << comparison_document(plan, comparison)
            << fmt::format("\n  {:<9} {}\n", "tables",
                           plan.directory + "/compare.{md,csv,tex,svg,json}, compare-runs.csv")
            << fmt::format("  {:<9} {}\n", "runs", plan.directory + "/" + comparison_files::kRuns);
}

}  // namespace

Command add_compare(CLI::App& program, CommonOptions& common) {
  CLI::App* command =
      program.add_subcommand("compare", "Train several methods with several seeds: one table of them all");
  auto arguments = std::make_shared<CompareArguments>();
  add_recipe_arguments(*command, arguments->recipe, /*writes=*/true);
  command->add_option("--methods", arguments->methods, "compare.methods: names with commas, or `all`")
      ->type_name("A,B,...");
  command->add_option("--seeds", arguments->seeds, "compare.seeds: runs of each method")
      ->check(positive_number())
      ->type_name("N");
  command->add_option("--lr-grid", arguments->lr_grid, "compare.lr_grid: rates to choose from, with commas")
      ->type_name("X,Y,...");
  command->add_option("--mode", arguments->mode, "compare.mode")
      ->check(CLI::IsMember({"equal-rank", "equal-parameters"}));
  command->add_option("--reference", arguments->reference, "compare.reference")->type_name("NAME");
  command->add_option("--output", arguments->output, "output.dir: directory of tables and runs")
      ->type_name("DIR");
  command->add_flag("--resume", arguments->resume,
                    "Keep finished runs and continue the others; methods, seeds and rates may be added");
  add_recipe_help<CompareRecipe>(*command);
  add_common(*command, common);
  return {command, [arguments, &common] { compare(*arguments, common); }, kLessMemoryInTraining};
}

}  // namespace msplora
