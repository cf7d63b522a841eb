#include "msplora/runs/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/tasks/evaluation.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

int64_t directory_bytes(const fs::path& directory) {
  int64_t bytes = 0;
  std::error_code code;
  for (const auto& entry : fs::recursive_directory_iterator(directory, code)) {
    if (entry.is_regular_file(code)) bytes += static_cast<int64_t>(entry.file_size(code));
  }
  return bytes;
}

/// How good a method's rates are on the validation data, larger is better: the mean of the runs. Unset where
/// one failed.
using RateScores = std::map<double, std::optional<double>>;

RateScores rate_scores(const std::vector<RunOutcome>& grid, const std::string& method) {
  std::map<double, std::vector<double>> found;
  std::set<double> failed;
  for (const RunOutcome& run : grid) {
    if (run.method != method) continue;
    std::vector<double>& scores = found[run.lr];
    if (run.error.empty() && run.validation && std::isfinite(*run.validation)) {
      scores.push_back(smaller_is_better(run.metric) ? -*run.validation : *run.validation);
    } else {
      failed.insert(run.lr);
    }
  }
  RateScores scores;
  for (const auto& [rate, values] : found)
    scores[rate] = failed.contains(rate) ? std::nullopt : std::optional(mean_of(values));
  return scores;
}

/// The rate with the best score; of equals the smaller rate.
std::optional<double> best_rate(const RateScores& scores) {
  std::optional<double> best;
  for (const auto& [rate, score] : scores) {
    if (score && (!best || *score > *scores.at(*best))) best = rate;
  }
  return best;
}

enum class Edge { kNone, kLower, kUpper };

/// Where a better rate than `best` may lie beyond those tried. A rate that equals its neighbour promises
/// nothing.
Edge edge_of(const RateScores& scores, double best) {
  if (scores.size() < 2) return Edge::kNone;
  const auto beats = [&](const std::optional<double>& next) { return !next || *scores.at(best) > *next; };
  if (best == scores.begin()->first && beats(std::next(scores.begin())->second)) return Edge::kLower;
  if (best == scores.rbegin()->first && beats(std::next(scores.rbegin())->second)) return Edge::kUpper;
  return Edge::kNone;
}

ComparisonRow empty_row(const ComparisonPlan& plan, const PlannedMethod& method) {
  ComparisonRow row;
  row.method = method.method;
  if (method.has_rank) row.rank = method.recipe.adapter.rank;
  row.parameters = method.parameters;
  if (plan.reference_parameters > 0) {
    row.share = static_cast<double>(method.parameters) / static_cast<double>(plan.reference_parameters);
  }
  return row;
}

/// Keeps the state that is shown after every run.
class ComparisonProgress {
 public:
  ComparisonProgress(const ComparisonPlan& plan, const RunOnce& run_once,
                     const std::function<void(const Comparison&, const RunOutcome&)>& on_change)
      : plan_(plan), run_once_(run_once), on_change_(on_change) {
    for (const PlannedMethod& method : plan.methods) comparison_.rows.push_back(empty_row(plan, method));
  }

  void try_rates(size_t index) {
    std::vector<double> rates = plan_.rates_of(plan_.methods[index]);
    const bool is_choice = rates.size() > 1;
    for (const double rate : rates) try_rate(index, rate, is_choice);
    for (int64_t i = 0; is_choice && i < plan_.options.lr_grid_extensions; ++i) {
      const ComparisonRow& row = comparison_.rows[index];
      const Edge edge = row.lr ? edge_of(scores_of(index), *row.lr) : Edge::kNone;
      if (edge == Edge::kNone) return;
      const bool above = edge == Edge::kUpper;
      rates.insert(above ? rates.end() : rates.begin(), *rate_beyond(rates, above));
      try_rate(index, above ? rates.back() : rates.front(), is_choice);
    }
  }

  void repeat(size_t index, int64_t seed) {
    ComparisonRow& row = comparison_.rows[index];
    if (!row.lr) return;
    row.runs.push_back(run_once_(plan_.run(plan_.methods[index], *row.lr, seed)));
    note(row, row.runs.back());
  }

  Comparison take() { return std::move(comparison_); }

 private:
  RateScores scores_of(size_t index) const {
    return rate_scores(comparison_.grid, plan_.methods[index].method);
  }

  void try_rate(size_t index, double rate, bool is_choice) {
    for (int64_t seed = 1; seed <= plan_.choosing_seeds(); ++seed) try_once(index, rate, seed, is_choice);
  }

  void try_once(size_t index, double rate, int64_t seed, bool is_choice) {
    const PlannedMethod& method = plan_.methods[index];
    ComparisonRow& row = comparison_.rows[index];
    comparison_.grid.push_back(run_once_(plan_.run(method, rate, seed)));
    RunOutcome& outcome = comparison_.grid.back();
    if (is_choice && outcome.error.empty() && !outcome.validation) {
      outcome.error = "there is no validation score to choose a learning rate by";
    }
    row.lr = is_choice ? best_rate(scores_of(index)) : rate;
    row.is_at_edge = is_choice && row.lr && edge_of(scores_of(index), *row.lr) != Edge::kNone;
    row.runs.clear();
    for (const RunOutcome& run : comparison_.grid) {
      // A method whose runs all failed shows its failures.
      if (run.method == method.method && (row.lr ? run.lr == *row.lr : true)) row.runs.push_back(run);
    }
    note(row, comparison_.grid.back());
  }

  void note(ComparisonRow& row, const RunOutcome& outcome) {
    summarise(row, plan_.reference_parameters);
    if (outcome.error.empty()) {
      comparison_.metric = outcome.metric;
      comparison_.is_test = outcome.is_test;
    }
    if (on_change_) on_change_(comparison_, outcome);
  }

  const ComparisonPlan& plan_;
  const RunOnce& run_once_;
  const std::function<void(const Comparison&, const RunOutcome&)>& on_change_;
  Comparison comparison_;
};

}  // namespace

std::optional<double> rate_beyond(const std::vector<double>& rates, bool above) {
  const size_t n = rates.size();
  if (n < 2) return std::nullopt;
  // Grids like 1, 3, 10, 30 repeat their steps two by two; of two rates the one step goes on.
  const size_t period = std::min<size_t>(2, n - 1);
  const double next = above ? rates[n - period] * (rates[n - 1] / rates[n - 1 - period])
                            : rates[period - 1] * (rates[0] / rates[period]);
  return std::stod(fmt::format("{:.6g}", next));
}

void summarise(ComparisonRow& row, int64_t reference_parameters) {
  std::vector<double> scores, validation, seconds, cpu_seconds, speeds, parameters, trained;
  row.failed = 0;
  for (const RunOutcome& run : row.runs) {
    if (!run.error.empty()) {
      ++row.failed;
      continue;
    }
    if (run.score) scores.push_back(*run.score);
    if (run.validation) validation.push_back(*run.validation);
    seconds.push_back(run.seconds);
    if (run.cpu_seconds) cpu_seconds.push_back(*run.cpu_seconds);
    speeds.push_back(run.tokens_per_second);
    row.peak_memory_bytes = std::max(row.peak_memory_bytes, run.peak_memory_bytes);
    row.adapter_bytes = std::max(row.adapter_bytes, run.adapter_bytes);
    parameters.push_back(static_cast<double>(run.adapter_parameters));
    trained.push_back(static_cast<double>(run.trained_parameters));
  }
  if (!scores.empty()) row.mean = mean_of(scores);
  if (scores.size() > 1) row.deviation = sample_deviation(scores);
  if (!validation.empty()) row.validation = mean_of(validation);
  if (seconds.empty()) return;
  row.parameters = std::llround(mean_of(parameters));
  row.trained_parameters = std::llround(mean_of(trained));
  if (reference_parameters > 0)
    row.share = static_cast<double>(row.parameters) / static_cast<double>(reference_parameters);
  row.seconds = mean_of(seconds);
  if (!cpu_seconds.empty()) row.cpu_seconds = mean_of(cpu_seconds);
  row.tokens_per_second = mean_of(speeds);
}

RunOutcome outcome_of(const PlannedRun& run) {
  RunOutcome outcome;
  outcome.name = run.name;
  outcome.method = run.method;
  outcome.lr = run.lr;
  outcome.seed = run.seed;
  return outcome;
}

RunOutcome read_outcome(const PlannedRun& run) {
  const fs::path directory = run.recipe.output.dir;
  const RunReport report = read_report(directory);
  RunOutcome outcome = outcome_of(run);
  outcome.metric = report.best_metric;
  const auto value_in = [&](const std::optional<MetricValues>& values) -> std::optional<double> {
    if (!values) return std::nullopt;
    for (const auto& [name, value] : *values) {
      if (name == outcome.metric && !std::isnan(value)) return value;
    }
    return std::nullopt;
  };
  outcome.validation = value_in(report.best);
  // A search that ends a run hands out what it found, not what was evaluated before it.
  if (report.search.is_object() && report.search.value("step", int64_t{-1}) == report.steps) {
    const auto& found = report.search.at("evaluation");
    if (found.contains(outcome.metric)) outcome.validation = found.at(outcome.metric).get<double>();
  }
  outcome.score = value_in(report.test);
  outcome.is_test = outcome.score.has_value();
  if (!outcome.score) outcome.score = outcome.validation;
  outcome.adapter_parameters = report.trainable.adapter;
  outcome.trained_parameters = report.trainable.total;
  outcome.steps = report.steps;
  outcome.seconds = report.seconds;
  outcome.cpu_seconds = report.cpu_seconds;
  outcome.tokens_per_second = report.tokens_per_second;
  outcome.peak_memory_bytes = report.peak_memory_bytes;
  outcome.warnings = report.warnings;
  outcome.adapter_bytes = directory_bytes(directory / kNativeDirectory);
  const fs::path pairs = directory / kTestPairsFile;
  if (outcome.is_test && path_exists(pairs)) outcome.pairs = read_test_pairs(pairs);
  for (const auto& [part, classes] : report.classes) {
    if (classes.contains("labels")) outcome.classes = static_cast<int64_t>(classes.at("labels").size());
  }
  return outcome;
}

size_t planned_runs(const ComparisonPlan& plan, const Comparison& comparison) {
  const auto choosing = static_cast<size_t>(plan.choosing_seeds());
  const auto seeds = static_cast<size_t>(plan.options.seeds);
  size_t planned = 0;
  for (size_t i = 0; i < plan.methods.size(); ++i) {
    const ComparisonRow& row = comparison.rows[i];
    const auto done =
        static_cast<size_t>(std::count_if(comparison.grid.begin(), comparison.grid.end(),
                                          [&](const RunOutcome& run) { return run.method == row.method; }));
    const size_t least = plan.rates_of(plan.methods[i]).size();
    size_t rates = std::max(least, (done + choosing - 1) / choosing);
    const bool is_tried = done >= rates * choosing;
    // try_rates goes on under the same conditions.
    const auto extensions = static_cast<size_t>(plan.options.lr_grid_extensions);
    if (is_tried && row.is_at_edge && rates < least + extensions) ++rates;
    planned += rates * choosing;
    if (row.lr || !is_tried) planned += seeds - choosing;
  }
  return planned;
}

Comparison run_comparison(const ComparisonPlan& plan, const RunOnce& run_once,
                          const std::function<void(const Comparison&, const RunOutcome&)>& on_change) {
  ComparisonProgress progress(plan, run_once, on_change);
  for (size_t i = 0; i < plan.methods.size(); ++i) progress.try_rates(i);
  for (int64_t seed = plan.choosing_seeds() + 1; seed <= plan.options.seeds; ++seed) {
    for (size_t i = 0; i < plan.methods.size(); ++i) progress.repeat(i, seed);
  }
  return progress.take();
}

}  // namespace msplora
