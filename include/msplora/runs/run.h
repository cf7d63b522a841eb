#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/error.h"
#include "msplora/models/model.h"
#include "msplora/runs/report.h"
#include "msplora/runs/run_data.h"
#include "msplora/runs/run_directory.h"
#include "msplora/tokenizers/tokenizer.h"
#include "msplora/train/events.h"
#include "msplora/train/recipe.h"
#include "msplora/train/trainer.h"

/// From a recipe to a run.
///
/// Several runs of a process may be opened and trained at a time, each on a thread of its own (and each with
/// its own output.dir): they share nothing that changes, and each ends with the bits that it has alone.
/// Threads and precision are those of the recipe, for the thread that opens or trains; one run may be opened
/// on one thread and trained on another. Of the process as a whole are the peak of memory and the CPU seconds
/// in a report, what keep_freed_memory() and the log's settings say, and profiles.
namespace msplora {

/// Where the ranks of a method that estimates them came from.
struct LayerRanks {
  std::string text;               // for people; empty when the method needs no such ranks
  std::optional<double> seconds;  // spent on estimating them
};

/// Everything that a run of `train` works on.
struct Run {
  Recipe recipe;  // as it runs: default targets filled in, ranks settled
  bool resume = false;
  std::stop_token stop;
  std::vector<std::string> warnings;  // of opening and training it
  std::unique_ptr<RunDirectory> directory;
  int threads = 0;
  ModelConfig config;  // of the base
  std::shared_ptr<const Tokenizer> tokenizer;
  RunData data;
  ModelLoadReport report;                 // where the head comes from
  std::optional<ParameterCount> planned;  // what the adapter will train, without the head
  std::unique_ptr<Model> model;           // null until open_run(), as are adapter and directory
  LayerRanks ranks;
  std::unique_ptr<Adapter> adapter;
};

/// What can be known of a run without reading weights and without touching output.dir: model, adapter and
/// directory stay null. Adds everything that is wrong with recipe, model directory and data.
Run check_run(const Recipe& recipe, ErrorList& errors);
/// The same; the adapter's options are judged only `with_adapter`.
Run check_run(const Recipe& recipe, ErrorList& errors, bool with_adapter);
/// A note about an output.dir that is there already, or "". Adds what makes it impossible.
std::string check_output(const OutputOptions& output, ErrorList& errors);

struct OpenOptions {
  bool resume = false;  // go on from the newest checkpoint in output.dir, if there is one
  /// Stops this run alone, as interrupt_requested() stops all of the process, while it is opened and whenever
  /// it trains: Error{kInterrupted}, once a checkpoint is written.
  std::stop_token stop = {};
};

/// From a recipe to a run: model, adapter, data, task. Claims output.dir, but writes nothing there yet.
/// Throws what check_run() finds, all of it in one Error; problems of one kind keep it.
Run open_run(const Recipe& recipe, const OpenOptions& options = {});

/// Of a step of an open run.
MemoryEstimate step_memory(const Run& run);

/// Trains, evaluates on the test data, writes adapters, task.json and metrics.json. `sinks` hear of it beside
/// metrics.jsonl and TensorBoard's file. A run that train.stop_at pauses gives a report with `paused` and
/// writes its checkpoint alone. Throws as Trainer::run() does.
RunReport train(Run& run, std::vector<std::unique_ptr<EventSink>> sinks = {});

// What other runs are made of, too.

/// Runs one check and keeps its problem, so that the next ones still run.
template <class Check>
bool attempt(ErrorList& errors, Check&& check) {
  try {
    check();
    return true;
  } catch (const Error& error) {
    errors.add(error);
    return false;
  }
}
/// config.json and the tokenizer of a recipe's model.
std::optional<ModelConfig> check_model(const ModelOptions& model, std::shared_ptr<const Tokenizer>& tokenizer,
                                       ErrorList& errors);
/// Adds what only shows once the data are read: options that need validation data, levels without steps,
/// metrics that are not among the task's, a device that is not there.
void check_options(const Run& run, ErrorList& errors);
/// What the run offers its method.
RunFacts run_facts(const Run& run);
/// The report of a training: its numbers and what was trained.
RunReport report_of(const TrainingResult& result, const TrainOptions& options, const std::string& method,
                    const std::vector<TrainableTensor>& trainable);
/// Options and sinks of a trainer that works in `directory`.
TrainerSetup trainer_setup(const TrainOptions& train, const OutputOptions& output,
                           const RunDirectory& directory, const std::string& recipe_yaml, bool resume,
                           std::vector<std::unique_ptr<EventSink>> sinks);
/// Evaluates the labelled test parts into `report` (values and classes), with the weights as they are.
void evaluate_test(const Task& task, Model& model, const RunData& data, int64_t batch_tokens,
                   RunReport& report);
/// Writes the adapter in the forms that output.save_peft and output.save_native ask for; their directories by
/// form.
std::map<std::string, std::string> save_adapters(const Adapter& adapter, const OutputOptions& output,
                                                 const RunDirectory& directory, const TaskFacts& facts);

}  // namespace msplora
