#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/metrics/significance.h"
#include "msplora/models/model.h"
#include "msplora/runs/run.h"
#include "msplora/train/recipe.h"

namespace msplora {

/// What is compared with what.
struct CompareOptions {
  std::vector<std::string> methods = {"msplora", "lora", "none"};
  int64_t seeds = 3;
  std::vector<double> lr_grid;
  int64_t lr_grid_extensions = 0;
  int64_t lr_seeds = 1;
  std::string mode = "equal-rank";
  std::string reference = "lora";
  std::map<std::string, std::vector<std::string>> settings;
  std::map<std::string, std::vector<std::string>> variants;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("methods", methods, "Methods and variants to compare; the single entry `all` takes every one");
    visitor("seeds", seeds, "Runs of each method, with the seeds 1, 2, ...", at_least(1));
    visitor("lr_grid", lr_grid,
            "Learning rates tried by every method; the best on the validation data is used. Empty: train.lr",
            above(0));
    visitor(
        "lr_grid_extensions", lr_grid_extensions,
        "Rates beyond `lr_grid` that a method may try, one after another, while the outermost rate it has "
        "tried is its best",
        at_least(0));
    visitor("lr_seeds", lr_seeds,
            "Seeds that every rate is tried with (1, 2, ...); of more than one the mean score decides",
            at_least(1));
    visitor(
        "mode", mode,
        "`equal-rank` takes the ranks as they stand; `equal-parameters` gives every method the rank whose "
        "number of parameters is nearest to that of `reference`",
        one_of({"equal-rank", "equal-parameters"}));
    visitor("reference", reference, "Method that the others are measured against");
    visitor("settings", settings, "Settings of single methods, e.g. {full: [train.weight_decay=0]}");
    visitor("variants", variants,
            "Further names for `methods`, each with the settings that make it out of a method, e.g. {dora: "
            "[adapter.method=lora, adapter.use_dora=true]}");
  }
};

/// A recipe of `compare`: the recipe of every run, and what differs between them.
struct CompareRecipe : Recipe {
  CompareOptions compare;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    Recipe::visit(visitor);
    visitor("compare", compare, "The comparison (`msplora compare` alone)");
  }
};

void check_recipe(const CompareRecipe& recipe, ErrorList& errors, const std::string& where = "recipe");

/// The shapes that the methods are put on.
struct ComparisonBase {
  std::string model_type;
  std::vector<Site> sites;
  int64_t num_layers = 0;
  AttentionHeads heads;
  std::vector<Parameter> parameters;  // may lie on the meta device; empty: unknown
};

/// One training. `method` is the name that `compare.methods` has: a method's or a variant's.
struct PlannedRun {
  std::string name;  // "lora/lr-0.001-seed-1": its directory below `runs`
  std::string method;
  double lr = 0.0;
  int64_t seed = 0;
  Recipe recipe;  // complete
};

struct PlannedMethod {
  std::string method;
  Recipe recipe;           // without rate, seed and directory
  int64_t parameters = 0;  // of the method itself, without heads
  bool has_rank = false;   // whether adapter.rank changes that number
};

/// Everything that is known before the first run.
struct ComparisonPlan {
  CompareOptions options;
  std::vector<PlannedMethod> methods;
  std::vector<double> rates;  // of compare.lr_grid, ascending; empty: every method has its train.lr
  int64_t reference_parameters = 0;
  std::string directory;

  /// The learning rates that a method tries, ascending; at least one. Of a method that trains the head alone
  /// (`none`) they are those of the head, whatever train.head_lr says. compare.lr_grid_extensions may add
  /// some.
  std::vector<double> rates_of(const PlannedMethod& method) const;
  /// How many seeds, from 1 on, every rate is tried with.
  int64_t choosing_seeds() const { return std::min(options.lr_seeds, options.seeds); }
  PlannedRun run(const PlannedMethod& method, double rate, int64_t seed) const;
};

ComparisonBase comparison_base(const ModelConfig& config);

/// Resolves methods, settings and ranks. Throws Error{kConfig} with every problem of every method, unknown
/// names with the nearest known one.
ComparisonPlan plan_comparison(const CompareRecipe& recipe, const ComparisonBase& base);

/// What one training gave.
struct RunOutcome {
  std::string name, method;
  double lr = 0.0;
  int64_t seed = 0;
  std::vector<std::string> warnings;  // that the run gave
  std::string error;                  // why there are no numbers; "" when there are
  std::string log;                    // of a run that failed: the file with what it printed, if there is one

  std::string metric;
  std::optional<double> validation;  // of the best evaluation
  std::optional<double> score;       // on the test data where they have labels, else `validation`
  bool is_test = false;
  int64_t adapter_parameters = 0, trained_parameters = 0;  // the second with head and biases
  int64_t steps = 0;
  double seconds = 0.0;
  std::optional<double> cpu_seconds;  // unknown of runs of earlier builds
  double tokens_per_second = 0.0;
  int64_t peak_memory_bytes = 0;
  int64_t adapter_bytes = 0;      // of the native form on disk
  std::vector<MetricPair> pairs;  // of the test data; empty where the task has none
  int64_t classes = 0;            // of the task; 0: none, or not known

  /// What was measured, under the names that files have for it.
  template <class Outcome, class Visitor>
  static void visit_measures(Outcome& outcome, Visitor&& visitor) {
    visitor("score", outcome.score);
    visitor("validation", outcome.validation);
    visitor("steps", outcome.steps);
    visitor("adapter_parameters", outcome.adapter_parameters);
    visitor("trained_parameters", outcome.trained_parameters);
    visitor("seconds", outcome.seconds);
    visitor("cpu_seconds", outcome.cpu_seconds);
    visitor("tokens_per_second", outcome.tokens_per_second);
    visitor("peak_memory_bytes", outcome.peak_memory_bytes);
    visitor("adapter_bytes", outcome.adapter_bytes);
  }
};

/// The next rate of an ascending grid, above its largest or below its smallest: the grid's own pattern goes
/// on, of 1e-4, 3e-4, 1e-3 with 3e-3 and 3e-5. Unset for fewer than two rates.
std::optional<double> rate_beyond(const std::vector<double>& rates, bool above);

/// That of a training of which nothing is known yet.
RunOutcome outcome_of(const PlannedRun& run);

/// Reads the metrics.json of a finished run. Throws Error{kFormat} when it is not one.
RunOutcome read_outcome(const PlannedRun& run);

/// Does one training, or finds it done. Errors of a run belong into its outcome; what is thrown ends the
/// comparison.
using RunOnce = std::function<RunOutcome(const PlannedRun&)>;

/// How far a row's scores are from those of the reference, row minus reference.
struct Contrast {
  PairedTest over_seeds;              // of the runs whose seeds both have
  std::optional<double> p_adjusted;   // by Holm, over all rows
  std::optional<Interval> over_both;  // 95 %, runs and test examples drawn anew
};

/// One line of the table: a method at its chosen rate.
struct ComparisonRow {
  std::string method;
  std::optional<int64_t> rank;
  int64_t parameters = 0;        // of the method: as planned, then the mean of what the runs trained
  double share = 0.0;            // of the reference method's
  std::optional<double> lr;      // unset when no run of the grid succeeded
  std::vector<RunOutcome> runs;  // one for each seed so far
  int64_t failed = 0;
  bool is_at_edge = false;  // the rate is the smallest or the largest of several, and better than the next
  std::optional<Contrast> contrast;       // unset for the reference, and where it has no run
  std::optional<double> mean, deviation;  // of the scores; sample standard deviation, from two runs on
  std::optional<double> validation;       // mean
  int64_t trained_parameters = 0;         // with head and biases
  double seconds = 0.0, tokens_per_second = 0.0;  // means
  std::optional<double> cpu_seconds;              // mean
  int64_t peak_memory_bytes = 0;                  // largest
  int64_t adapter_bytes = 0;
};

/// Fills in what follows from row.runs. What was trained may differ from run to run and from the plan: ranks
/// that are estimated from the data.
void summarise(ComparisonRow& row, int64_t reference_parameters);

struct Comparison {
  std::string metric;    // of the scores
  bool is_test = false;  // scores are of the test data
  std::vector<ComparisonRow> rows;
  std::vector<RunOutcome> grid;  // the runs that chose the rates, in order
};

/// Runs the plan: first every rate of the grid (and what extends it) with the seeds that choose, for every
/// method, then the other seeds at the rates chosen. The runs of the chosen rate count as those of their
/// seeds. `on_change` sees the state after every run.
Comparison run_comparison(const ComparisonPlan& plan, const RunOnce& run_once,
                          const std::function<void(const Comparison&, const RunOutcome&)>& on_change = {});

/// How many runs there will be as far as is known: a rate beyond a grid is known once the grid's best is its
/// outermost, and a method of which every rate failed has no further seeds.
size_t planned_runs(const ComparisonPlan& plan, const Comparison& comparison);

/// Why no row has a contrast with the reference, or "".
std::string no_contrast_reason(const Comparison& comparison, const std::string& reference);

/// Sets the contrast of every row, drawing `draws` times (0: no intervals over examples).
void contrast_with_reference(Comparison& comparison, const std::string& reference, int64_t draws);

/// Everything, for scripts: plan, rows, single runs.
nlohmann::ordered_json comparison_to_json(const ComparisonPlan& plan, const Comparison& comparison);

/// What a comparison writes in its directory, beside recipe.yaml.
namespace comparison_files {
inline constexpr char kDocument[] = "compare.md", kTable[] = "compare.csv", kRunsTable[] = "compare-runs.csv",
                      kLatex[] = "compare.tex", kPicture[] = "compare.svg", kNumbers[] = "compare.json",
                      kRuns[] = "runs";  // the directory of the directories of runs
inline constexpr const char* kAll[] = {kDocument, kTable, kRunsTable, kLatex, kPicture, kNumbers, kRuns};
}  // namespace comparison_files

/// What compare.json holds: of the plan, what its tables need.
struct SavedComparison {
  ComparisonPlan plan;
  Comparison comparison;
};
/// Reads compare.json, or that of a comparison's directory; means, deviations and tests are formed again from
/// the single runs. Throws Error{kIo} where there is none, Error{kFormat} where it is damaged.
SavedComparison read_comparison(const std::filesystem::path& path);

/// A comparison that has its plan and its directory.
struct ComparisonRun {
  CompareRecipe recipe;  // as it runs
  ComparisonPlan plan;
  std::unique_ptr<RunDirectory> directory;
};

/// Adds what is wrong with the recipe, its model directory, its data and the plan.
Run check_run(const CompareRecipe& recipe, ErrorList& errors);

/// Plans, claims output.dir and writes recipe.yaml there; unless it resumes, runs of an earlier comparison
/// are removed. Throws as plan_comparison() and RunDirectory do; the data are left to the runs. So is a stop,
/// but that of the options: a StopScope around all of it ends a comparison of runs in this process.
ComparisonRun open_run(const CompareRecipe& recipe, const OpenOptions& options = {});

/// Trains as a recipe file says, going on from what its output.dir holds, and gives "" or why it failed.
/// What it says meanwhile may go to `log`.
using Launch =
    std::function<std::string(const std::filesystem::path& recipe, const std::filesystem::path& log)>;
/// In this process: one peak of memory for all runs, and a crash ends the comparison.
Launch in_this_process();

/// One training, or its report where it is done; why it failed is part of the outcome. Throws Error{kConfig}
/// where its directory was made with other options, Error{kInterrupted} when interrupt_requested().
RunOutcome train_planned(const PlannedRun& run, const Launch& launch);

}  // namespace msplora
