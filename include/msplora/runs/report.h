#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/tasks/evaluation.h"

namespace msplora {

/// Names and values of an evaluation, in its order.
using MetricValues = std::vector<std::pair<std::string, double>>;

/// Trained values by what they belong to.
struct ParameterCounts {
  int64_t total = 0, adapter = 0, bias = 0, head = 0;
  std::map<std::string, int64_t> adapter_by_level = {};

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("total", total);
    visitor("adapter", adapter);
    visitor("bias", bias);
    visitor("head", head);
    visitor("adapter_by_level", adapter_by_level);
  }
};
ParameterCounts count_trainable(const std::vector<TrainableTensor>& trainable);

/// What came out of a run: of `train`, `pretrain` and `federate` alike. metrics.json is written and read from
/// this declaration; what is unset is left out there.
struct RunReport {
  std::string method;
  ParameterCounts trainable;
  std::optional<int64_t> rounds, clients;  // of federated training
  int64_t steps = 0;
  std::optional<int64_t> total_steps;
  std::optional<bool> stopped_early;
  std::optional<double> last_loss;
  std::string best_metric;           // that chose the best evaluation
  std::optional<MetricValues> best;  // on the validation data; null without any
  std::optional<int64_t> best_step;
  std::optional<MetricValues> last;
  std::optional<MetricValues> test;
  double seconds = 0.0;               // training, evaluation and saving; all parts of a resumed run together
  std::optional<double> cpu_seconds;  // of the processor in that time, over all threads of this process
  double train_seconds = 0.0;         // optimizer steps alone
  std::optional<double> rank_estimation_seconds;
  int64_t tokens = 0;
  double tokens_per_second = 0.0;
  int64_t peak_memory_bytes = 0;
  int64_t seed = 0;
  std::string dtype;
  std::optional<int64_t> threads;
  std::map<std::string, std::string> versions;            // of libraries
  std::map<std::string, std::string> adapters;            // directories by form: "peft", "native"
  std::map<std::string, nlohmann::ordered_json> classes;  // class_report() by part
  nlohmann::ordered_json search;                          // what the method's search found
  nlohmann::ordered_json bytes, partition;                // of federated training
  std::vector<std::string> warnings;                      // that the run gave
  std::string run, model;                                 // its directory; the base, or the model it wrote

  /// What the model said of every example of the test data, by part: a file of its own (test_pairs_csv).
  std::vector<std::pair<std::string, std::vector<MetricPair>>> test_pairs;

  bool paused = false;  // by train.stop_at or federated.stop_at: not finished, and nothing is written
  int64_t whole = 0;    // steps (rounds) of the whole run

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("method", method);
    visitor("trainable_parameters", trainable);
    visitor("rounds", rounds);
    visitor("clients", clients);
    visitor("steps", steps);
    visitor("total_steps", total_steps);
    visitor("stopped_early", stopped_early);
    visitor("last_loss", last_loss);
    visitor("best_metric", best_metric);
    visitor("best", best);
    visitor("best_step", best_step);
    visitor("last", last);
    visitor("test", test);
    visitor("seconds", seconds);
    visitor("cpu_seconds", cpu_seconds);
    visitor("train_seconds", train_seconds);
    visitor("rank_estimation_seconds", rank_estimation_seconds);
    visitor("tokens", tokens);
    visitor("tokens_per_second", tokens_per_second);
    visitor("peak_memory_bytes", peak_memory_bytes);
    visitor("seed", seed);
    visitor("dtype", dtype);
    visitor("threads", threads);
    visitor("versions", versions);
    visitor("search", search);
    visitor("classes", classes);
    visitor("bytes", bytes);
    visitor("partition", partition);
    visitor("adapter", adapters);
    visitor("warnings", warnings);
    visitor("run", run);
    visitor("model", model);
  }

  /// The value of a metric on the test data, else of the best evaluation, else of the last.
  struct Score {
    std::string name, on;  // "test" or "validation"
    double value = 0.0;
  };
  std::optional<Score> score(const std::string& metric) const;
  /// Of all that was evaluated.
  std::vector<std::string> metric_names() const;
};

/// Of a finished run, in its directory.
inline constexpr char kReportFile[] = "metrics.json", kTestPairsFile[] = "test.csv";

/// metrics.json.
nlohmann::ordered_json to_json(const RunReport& report);
/// Reads the metrics.json of a run directory. Throws Error{kIo} where there is none (the run did not finish),
/// Error{kFormat} naming the key where it is damaged.
RunReport read_report(const std::filesystem::path& directory);

/// test.csv: "part,prediction,target", a line an example in the order of the data; classes by their numbers
/// and, where the report has their names (`classes`), behind them as "predicted label,label".
std::string test_pairs_csv(const RunReport& report);
/// The pairs of such a file, all parts in a row. Throws Error{kIo} where there is none, Error{kFormat} naming
/// the line where it is damaged.
std::vector<MetricPair> read_test_pairs(const std::filesystem::path& file);

/// Precision, recall, F1 and support of each class, their means, and the confusion matrix, by part of the
/// evaluation: {"labels": [...], "per_class": {NAME: {precision, recall, f1, support, predicted}},
/// "macro_average": {...}, "weighted_average": {...}, "confusion_matrix": [[...]]}, rows the true classes.
/// The parts stand side by side where there are several. Null for a task without classes.
nlohmann::ordered_json class_report(const Evaluation& evaluation, const std::vector<std::string>& labels);

/// Mean of precision, recall and F1 over the classes that occur, each counted once or by its examples.
struct ClassScores {
  double precision = 0, recall = 0, f1 = 0;
};
ClassScores class_scores(const ConfusionMatrix& matrix, int64_t label);
ClassScores average_scores(const ConfusionMatrix& matrix, bool is_weighted);

}  // namespace msplora
