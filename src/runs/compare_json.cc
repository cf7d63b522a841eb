// compare.json: a comparison as it was measured, for scripts and for tables that are made again.
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/strict_json.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/runs/compare.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

Json or_null(const std::optional<double>& value) {
  return value && std::isfinite(*value) ? Json(*value) : Json();
}

Json interval_to_json(const std::optional<Interval>& interval) {
  return interval ? Json{interval->low, interval->high} : Json();
}

Json contrast_to_json(const Contrast& contrast) {
  return {{"seeds", contrast.over_seeds.pairs},
          {"difference", contrast.over_seeds.difference},
          {"deviation", contrast.over_seeds.deviation},
          {"p", or_null(contrast.over_seeds.p)},
          {"p_adjusted", or_null(contrast.p_adjusted)},
          {"interval_over_seeds", interval_to_json(contrast.over_seeds.interval)},
          {"interval_over_seeds_and_examples", interval_to_json(contrast.over_both)}};
}

struct MeasureWriter {
  Json& json;
  void operator()(const char* name, const std::optional<double>& value) { json[name] = or_null(value); }
  template <class T>
  void operator()(const char* name, const T& value) {
    json[name] = value;
  }
};

struct MeasureReader {
  const Json& json;
  void operator()(const char* name, std::optional<double>& value) {
    const auto found = json.find(name);  // what earlier builds did not measure is not there
    if (found != json.end() && !found->is_null()) value = found->get<double>();
  }
  template <class T>
  void operator()(const char* name, T& value) {
    json.at(name).get_to(value);
  }
};

Json run_to_json(const RunOutcome& run) {
  Json json = {{"name", run.name}, {"method", run.method}, {"lr", run.lr}, {"seed", run.seed}};
  if (!run.error.empty()) {
    json["error"] = run.error;
    if (!run.log.empty()) json["log"] = run.log;
    return json;
  }
  RunOutcome::visit_measures(run, MeasureWriter{json});
  if (!run.warnings.empty()) json["warnings"] = run.warnings;
  return json;
}

std::optional<double> number_in(const Json& json, const char* key) {
  const Json& value = json.at(key);
  return value.is_null() ? std::nullopt : std::optional(value.get<double>());
}

RunOutcome run_from_json(const Json& json, const Json& comparison) {
  RunOutcome run;
  run.name = json.at("name");
  run.method = json.at("method");
  run.lr = json.at("lr");
  run.seed = json.at("seed");
  run.metric = comparison.at("metric");
  run.is_test = comparison.at("measured_on") == "test";
  if (json.contains("error")) {
    run.error = json.at("error");
    run.log = json.value("log", std::string());
    return run;
  }
  RunOutcome::visit_measures(run, MeasureReader{json});
  if (json.contains("warnings")) run.warnings = json.at("warnings").get<std::vector<std::string>>();
  return run;
}

ComparisonRow row_from_json(const Json& json, const Json& comparison) {
  ComparisonRow row;
  row.method = json.at("method");
  if (!json.at("rank").is_null()) row.rank = json.at("rank").get<int64_t>();
  row.parameters = json.at("parameters");
  row.share = json.at("share_of_reference");
  row.lr = number_in(json, "lr");
  row.is_at_edge = json.at("lr_at_edge_of_grid");
  for (const Json& run : json.at("runs")) row.runs.push_back(run_from_json(run, comparison));
  summarise(row, comparison.at("reference_parameters"));
  return row;
}

SavedComparison comparison_from_json(const Json& json) {
  SavedComparison saved;
  saved.plan.options.mode = json.at("mode");
  saved.plan.options.reference = json.at("reference");
  saved.plan.options.seeds = json.at("seeds");
  saved.plan.reference_parameters = json.at("reference_parameters");
  saved.plan.options.lr_grid_extensions = json.value("lr_grid_extensions", int64_t{0});
  saved.plan.options.lr_seeds = json.value("lr_seeds", int64_t{1});
  saved.plan.rates = json.at("lr_grid").get<std::vector<double>>();
  saved.comparison.metric = json.at("metric");
  saved.comparison.is_test = json.at("measured_on") == "test";
  for (const Json& row : json.at("rows")) saved.comparison.rows.push_back(row_from_json(row, json));
  for (const Json& run : json.at("grid")) saved.comparison.grid.push_back(run_from_json(run, json));
  contrast_with_reference(saved.comparison, saved.plan.options.reference, /*draws=*/0);
  // The examples behind these intervals are not in the file.
  for (size_t i = 0; i < saved.comparison.rows.size(); ++i) {
    const Json& contrast = json.at("rows").at(i).at("against_reference");
    auto& row = saved.comparison.rows[i].contrast;
    if (!row || contrast.is_null()) continue;
    const Json& interval = contrast.at("interval_over_seeds_and_examples");
    if (!interval.is_null()) row->over_both = {interval.at(0).get<double>(), interval.at(1).get<double>()};
  }
  return saved;
}

}  // namespace

Json comparison_to_json(const ComparisonPlan& plan, const Comparison& comparison) {
  Json rows = Json::array();
  for (const ComparisonRow& row : comparison.rows) {
    Json json = {{"method", row.method}};
    json["rank"] = row.rank ? Json(*row.rank) : Json();
    json["parameters"] = row.parameters;
    json["share_of_reference"] = row.share;
    json["trained_parameters"] = row.trained_parameters;
    json["lr"] = or_null(row.lr);
    json["lr_at_edge_of_grid"] = row.is_at_edge;
    json["mean"] = or_null(row.mean);
    json["deviation"] = or_null(row.deviation);
    json["validation"] = or_null(row.validation);
    json["against_reference"] = row.contrast ? contrast_to_json(*row.contrast) : Json();
    json["failed"] = row.failed;
    json["seconds"] = row.seconds;
    json["cpu_seconds"] = or_null(row.cpu_seconds);
    json["tokens_per_second"] = row.tokens_per_second;
    json["peak_memory_bytes"] = row.peak_memory_bytes;
    json["adapter_bytes"] = row.adapter_bytes;
    json["runs"] = Json::array();
    for (const RunOutcome& run : row.runs) json["runs"].push_back(run_to_json(run));
    rows.push_back(std::move(json));
  }
  Json grid = Json::array();
  for (const RunOutcome& run : comparison.grid) grid.push_back(run_to_json(run));
  Json json = {{"mode", plan.options.mode},
               {"reference", plan.options.reference},
               {"reference_parameters", plan.reference_parameters},
               {"seeds", plan.options.seeds},
               {"lr_grid", plan.rates},
               {"lr_grid_extensions", plan.options.lr_grid_extensions},
               {"lr_seeds", plan.options.lr_seeds},
               {"metric", comparison.metric},
               {"measured_on", comparison.is_test ? "test" : "validation"},
               {"rows", std::move(rows)},
               {"grid", std::move(grid)}};
  const std::string reason = no_contrast_reason(comparison, plan.options.reference);
  if (!reason.empty()) json["warnings"] = Json::array({reason});
  return json;
}

SavedComparison read_comparison(const std::filesystem::path& path) {
  const std::filesystem::path file = directory_exists(path) ? path / comparison_files::kNumbers : path;
  detail::JsonRules rules;
  rules.hint = "expected what `msplora compare` writes";
  try {
    return comparison_from_json(detail::parse_strict<Json>(read_file(file), file.string(), rules));
  } catch (const nlohmann::json::exception& problem) {
    throw Error(ErrorCode::kFormat, file.string(), problem.what(), rules.hint);
  }
}

}  // namespace msplora
