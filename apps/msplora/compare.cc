#include "msplora/runs/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "child_process.h"
#include "program.h"
#include "recipe_arguments.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

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

std::string score_text(const ComparisonRow& row) {
  if (!row.mean) return row.failed > 0 ? "failed" : "";
  return row.deviation ? fmt::format("{:.4f} ± {:.4f}", *row.mean, *row.deviation)
                       : fmt::format("{:.4f}", *row.mean);
}

TextTable table_of(const ComparisonPlan& plan, const Comparison& comparison) {
  const std::string metric = comparison.metric.empty() ? "score" : comparison.metric;
  TextTable table({"method", "rank", "parameters", "of " + plan.options.reference, "with head", "lr",
                   fmt::format("{} ({})", metric, comparison.is_test ? "test" : "validation"), "validation",
                   "runs", "seconds", "tokens/s", "peak memory", "adapter file"},
                  {false, true, true, true, true, true, true, true, true, true, true, true, true});
  for (const ComparisonRow& row : comparison.rows) {
    const auto done = static_cast<int64_t>(row.runs.size()) - row.failed;
    const bool any = done > 0;
    table.add({row.method, row.rank ? std::to_string(*row.rank) : "", with_commas(row.parameters),
               plan.reference_parameters > 0 ? fmt::format("{:.1f} %", 100.0 * row.share) : "",
               any ? with_commas(row.trained_parameters) : "", row.lr ? fmt::format("{}", *row.lr) : "",
               score_text(row), row.validation ? fmt::format("{:.4f}", *row.validation) : "",
               row.failed > 0 ? fmt::format("{}, {} failed", done, row.failed) : std::to_string(done),
               any ? fmt::format("{:.1f}", row.seconds) : "",
               any ? with_commas(static_cast<int64_t>(row.tokens_per_second)) : "",
               any ? bytes_text(row.peak_memory_bytes) : "", any ? bytes_text(row.adapter_bytes) : ""});
  }
  return table;
}

std::string failures_of(const Comparison& comparison) {
  std::string text;
  std::set<std::string> told;
  const auto tell = [&](const RunOutcome& run) {
    if (!run.error.empty() && told.insert(run.name).second) {
      text += fmt::format("- {}: {}\n", run.name, run.error);
    }
  };
  for (const RunOutcome& run : comparison.grid) tell(run);
  for (const ComparisonRow& row : comparison.rows) {
    for (const RunOutcome& run : row.runs) tell(run);
  }
  return text.empty() ? text : "\nFailed:\n\n" + text;
}

/// Each warning once, with the runs that gave it.
std::string warnings_of(const Comparison& comparison) {
  std::map<std::string, std::set<std::string>> runs;
  const auto note = [&](const RunOutcome& run) {
    for (const std::string& warning : run.warnings) runs[warning].insert(run.name);
  };
  for (const RunOutcome& run : comparison.grid) note(run);
  for (const ComparisonRow& row : comparison.rows) {
    for (const RunOutcome& run : row.runs) note(run);
  }
  std::string text;
  for (const auto& [warning, names] : runs) {
    text += fmt::format("- {} ({})\n", warning, shortened({names.begin(), names.end()}, 3));
  }
  return text.empty() ? text : "\nWarnings:\n\n" + text;
}

std::string document_of(const ComparisonPlan& plan, const Comparison& comparison) {
  const CompareOptions& options = plan.options;
  std::string text = fmt::format(
      "{}, {} seed{}; scores are means ± sample standard deviations, seconds and tokens/s means, peak memory "
      "the largest of the runs.\n",
      options.mode, options.seeds, options.seeds == 1 ? "" : "s");
  if (!plan.rates.empty()) {
    text += fmt::format("Learning rates tried with seed 1, the best on the validation data taken: {}.\n",
                        fmt::join(plan.rates, ", "));
  }
  return text + "\n" + table_of(plan, comparison).markdown() + warnings_of(comparison) +
         failures_of(comparison);
}

/// The numbers without units, for other programs.
std::string csv_of(const ComparisonPlan& plan, const Comparison& comparison) {
  const auto number = [](const std::optional<double>& value) {
    return value ? fmt::format("{}", *value) : std::string();
  };
  std::string text =
      "method,rank,parameters,share_of_reference,trained_parameters,lr,metric,measured_on,mean,deviation,"
      "validation,runs,failed,seconds,tokens_per_second,peak_memory_bytes,adapter_bytes\n";
  for (const ComparisonRow& row : comparison.rows) {
    text += fmt::format(
        "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", row.method,
        row.rank ? std::to_string(*row.rank) : "", row.parameters, row.share, row.trained_parameters,
        number(row.lr), comparison.metric, comparison.is_test ? "test" : "validation", number(row.mean),
        number(row.deviation), number(row.validation), static_cast<int64_t>(row.runs.size()) - row.failed,
        row.failed, row.seconds, row.tokens_per_second, row.peak_memory_bytes, row.adapter_bytes);
  }
  return text;
}

void write_tables(const ComparisonPlan& plan, const Comparison& comparison) {
  const fs::path directory = plan.directory;
  write_file_atomically(directory / "compare.md", document_of(plan, comparison));
  write_file_atomically(directory / "compare.csv", csv_of(plan, comparison));
  write_file_atomically(directory / "compare.json", comparison_to_json(plan, comparison).dump(2) + "\n");
}

std::string outcome_line(const RunOutcome& run) {
  if (!run.error.empty()) return fmt::format("{}: failed: {}", run.name, run.error);
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
              first == nullptr ? "" : fmt::format("{}: {}", first->name, first->error));
}

void compare(const CompareArguments& arguments, const CommonOptions& common) {
  const RecipeArguments given = with_options(arguments);
  const ComparisonRun run = open_run(load_recipe<CompareRecipe>(given.file, changes_of(given, common)),
                                     {.resume = arguments.resume});
  const ComparisonPlan& plan = run.plan;
  const size_t rates = std::max<size_t>(1, plan.rates.size());
  const size_t total = plan.methods.size() * (rates + static_cast<size_t>(plan.options.seeds) - 1);
  size_t done = 0;
  const auto train_one = [](const PlannedRun& planned) { return train_planned(planned, train_in_child); };
  const Comparison comparison =
      run_comparison(plan, train_one, [&](const Comparison& now, const RunOutcome& outcome) {
        say(common, fmt::format("[{}/{}] {}\n", ++done, total, printable_line(outcome_line(outcome))));
        write_tables(plan, now);
      });
  check_any_done(comparison);
  if (common.json) return print_json(comparison_to_json(plan, comparison));
  std::cout << "\n"
            << document_of(plan, comparison)
            << fmt::format("\n  {:<9} {}\n", "tables", plan.directory + "/compare.{md,csv,json}")
            << fmt::format("  {:<9} {}\n", "runs", plan.directory + "/runs");
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
      ->check(CLI::PositiveNumber)
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
  return {command, [arguments, &common] { compare(*arguments, common); }};
}

}  // namespace msplora
