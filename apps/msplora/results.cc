#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "compare_tables.h"
#include "msplora/core/paths.h"
#include "msplora/report/svg.h"
#include "msplora/runs/compare.h"
#include "msplora/runs/recipe_file.h"
#include "msplora/runs/report.h"
#include "msplora/runs/run_directory.h"
#include "program.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

struct ResultsArguments {
  std::vector<std::string> runs;
  std::string metric;
  bool svg = false;
};

/// The metric to show: the one asked for, else the one that picked the best checkpoint, on test where there
/// is one.
Json read_run(const std::string& run, const std::string& metric) {
  const RunReport report = read_report(run);
  const auto score = report.score(metric.empty() ? report.best_metric : metric);
  if (!score && !metric.empty()) {
    const std::vector<std::string> names = report.metric_names();
    throw Error(ErrorCode::kUsage, "--metric",
                fmt::format("{} has no `{}`; it has {}", run, metric,
                            names.empty() ? "no metrics" : shortened(names, 20)),
                did_you_mean(metric, names));
  }
  Json row = {{"run", run},
              {"task", task_of_recipe(std::filesystem::path(run) / kRecipeFile)},
              {"method", report.method},
              {"trainable_parameters", report.trainable.total},
              {"adapter_parameters", report.trainable.adapter},
              {"metric", nullptr},
              {"steps", report.steps},
              {"seconds", report.seconds},
              {"tokens_per_second", report.tokens_per_second},
              {"seed", report.seed},
              {"adapter", report.adapters}};
  if (score)
    row["metric"] = {{"name", score->name},
                     {"on", score->on},
                     {"value", std::isfinite(score->value) ? Json(score->value) : Json()}};
  return row;
}

std::string metric_name(const Json& metric) {
  return fmt::format("{} ({})", metric["name"].get<std::string>(), metric["on"].get<std::string>());
}

std::string metric_text(const Json& metric, bool is_named) {
  if (metric.is_null() || metric["value"].is_null()) return "";
  const std::string value = fmt::format("{:.4f}", metric["value"].get<double>());
  return is_named ? fmt::format("{} {}", metric_name(metric), value) : value;
}

std::string adapter_text(const Json& row) {
  for (const char* form : {"peft", "native"}) {
    if (row["adapter"].contains(form)) return row["adapter"][form].get<std::string>();
  }
  return row["run"].get<std::string>();
}

/// A comparison's directory, or its compare.json wherever it lies.
bool is_comparison(const std::filesystem::path& path) {
  return path.extension() == ".json" || path_exists(path / comparison_files::kNumbers);
}

void show_comparison(const ResultsArguments& arguments, const CommonOptions& common) {
  if (arguments.runs.size() > 1)
    throw Error(ErrorCode::kUsage, arguments.runs.back(), "a comparison is shown alone");
  if (!arguments.metric.empty())
    throw Error(ErrorCode::kUsage, "--metric", "a comparison has the metric that chose its rates");
  const SavedComparison saved = read_comparison(arguments.runs.front());
  if (common.json) return print_json(comparison_to_json(saved.plan, saved.comparison));
  if (arguments.svg) {
    std::cout << report::svg_file(comparison_picture(saved.plan, saved.comparison));
    return;
  }
  std::cout << comparison_document(saved.plan, saved.comparison);
}

void results(const ResultsArguments& arguments, const CommonOptions& common) {
  if (std::any_of(arguments.runs.begin(), arguments.runs.end(), is_comparison))
    return show_comparison(arguments, common);
  if (arguments.svg) throw Error(ErrorCode::kUsage, "--svg", "only a comparison has a picture");
  Json rows = Json::array();
  for (const std::string& run : arguments.runs) rows.push_back(read_run(run, arguments.metric));
  if (common.json) return print_json(rows);
  // One metric names the column; several stand in their cells.
  std::set<std::string> names;
  for (const Json& row : rows) {
    if (!row["metric"].is_null()) names.insert(metric_name(row["metric"]));
  }
  const bool is_mixed = names.size() > 1;
  const std::string title = names.size() == 1 ? *names.begin() : "metric";
  std::vector<std::string> header = {
      "method", "adapter parameters", "trained with head", title, "seconds", "tokens/s", "adapter"};
  std::vector<bool> right = {false, true, true, true, true, true, false};
  // Rows of several metrics are of several tasks, mostly.
  if (is_mixed) {
    header.insert(header.begin(), {"run", "task"});
    right.insert(right.begin(), {false, false});
  }
  TextTable table(header, right);
  for (const Json& row : rows) {
    std::vector<std::string> cells = {
        row["method"].get<std::string>(),
        with_commas(row["adapter_parameters"].get<int64_t>()),
        with_commas(row["trainable_parameters"].get<int64_t>()),
        metric_text(row["metric"], is_mixed),
        fmt::format("{:.1f}", row["seconds"].get<double>()),
        with_commas(static_cast<int64_t>(row["tokens_per_second"].get<double>())),
        adapter_text(row)};
    if (is_mixed)
      cells.insert(cells.begin(), {row["run"].get<std::string>(), row["task"].get<std::string>()});
    table.add(std::move(cells));
  }
  std::cout << table.markdown();
}

}  // namespace

Command add_results(CLI::App& program, CommonOptions& common) {
  CLI::App* command =
      program.add_subcommand("results", "One table over finished runs, or the tables of a comparison");
  auto arguments = std::make_shared<ResultsArguments>();
  command
      ->add_option("runs", arguments->runs,
                   "Run directories, or the directory or compare.json of a comparison")
      ->required()
      ->type_name("DIR...");
  command
      ->add_option("--metric", arguments->metric,
                   "Metric to show; default: the one that picked the best checkpoint")
      ->type_name("NAME");
  command->add_flag("--svg", arguments->svg,
                    "Print the picture of a comparison, score against parameters, instead of its tables");
  add_common(*command, common);
  return {command, [arguments, &common] { results(*arguments, common); }};
}

}  // namespace msplora
