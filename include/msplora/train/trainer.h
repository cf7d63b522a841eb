#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/stopwatch.h"
#include "msplora/train/checkpoint.h"
#include "msplora/train/communicator.h"
#include "msplora/train/events.h"
#include "msplora/train/gradients.h"
#include "msplora/train/optimizer.h"
#include "msplora/train/recipe.h"
#include "msplora/train/schedule.h"
#include "msplora/train/training_data.h"

namespace msplora {

/// What is trained and how.
struct TrainerSetup {
  TrainOptions options;
  std::filesystem::path directory;  // of the run; must exist (prepare_output_directory)
  bool resume = false;              // continue from the newest checkpoint in `directory`, if there is one
  std::string method;               // for reports: "msplora", "full", ...
  std::vector<TrainableTensor> trainable;
  Adapter* adapter = nullptr;  // not owned, may be null
  nlohmann::json recipe;       // recipe_to_json: a resumed run must have the same; may be null
  uint64_t base_fingerprint = 0;
  std::vector<std::unique_ptr<EventSink>> sinks;
  /// The processes that train together; null: this one alone. Each takes train.accumulation micro-batches of
  /// a step in turn, so that a step has `size` times as many, and all reach the same bits. Every rank needs
  /// its own `directory` or none.
  Communicator* ranks = nullptr;
  /// Without checkpoints nothing is written and nothing resumed; `directory` is not looked at.
  bool keeps_checkpoints = true;
  /// A run that is a part of a longer one (a client's round): the steps before it and those of the whole, for
  /// the learning-rate schedule. 0: the run is the whole.
  int64_t schedule_begin = 0;
  int64_t schedule_steps = 0;
};

/// What came out.
struct TrainingResult {
  int64_t steps = 0;
  int64_t total_steps = 0;
  bool stopped_early = false;
  bool paused = false;  // by train.stop_at: not finished
  double last_loss = 0.0;
  std::string best_metric;
  std::optional<Evaluation> best;  // and of these weights the model ends with, if train.load_best_at_end
  std::optional<Evaluation> last;
  int64_t best_step = -1;
  double seconds = 0.0;        // training, evaluation and saving; all parts of a resumed run together
  double cpu_seconds = 0.0;    // of the processor in that time, over all threads; of this rank alone
  double train_seconds = 0.0;  // optimizer steps alone
  int64_t tokens = 0;
  double tokens_per_second = 0.0;  // over train_seconds
  int64_t peak_memory_bytes = 0;
  nlohmann::json search;  // what the method's search found and its evaluation (Adapter::search); else null
};

/// The training loop: an optimizer over micro-batches with a schedule, clipping, evaluation, checkpoints and
/// early stopping.
/// The search of a method that has one (Adapter::search) runs on the weights that the run ends with (with
/// train.load_best_at_end, those of the best evaluation), or, when the method trains on after it, on those of
/// that step; the best evaluation is then the best since the search.
///
/// Gradients are those of the mean loss over all targets of an optimizer step, however it is cut into
/// micro-batches. A resumed run does exactly what the uninterrupted one would have done, bit for bit with the
/// same thread count.
class Trainer {
 public:
  /// Checks the setup and writes nothing. Throws Error{kConfig} when nothing is trainable, or when the method
  /// or early stopping needs validation data and there is none.
  Trainer(TrainerSetup setup, TrainingData& data);
  ~Trainer();

  /// Trains to the end (or to train.stop_at).
  /// Throws Error{kInterrupted} after a checkpoint when interrupt_requested(); Error{kNumerics} when a loss
  /// or gradient is not finite, naming step, micro-batch and examples (nothing is saved then); Error{kConfig}
  /// when trainable tensors get no gradient, or when the checkpoint to resume from was made with other
  /// options or data.
  TrainingResult run();

  const RunState& state() const { return state_; }

 private:
  // trainer.cc: the loop.
  TrainingResult train();
  void end_sinks();
  void do_step();
  std::vector<Batch> take_batches();
  bool on_any_rank(bool what);
  double backward(const std::vector<Batch>& batches, double targets);
  void reduce(const std::set<std::string>& frozen);
  void update(TrainingProgress progress, double lr_factor, double gradient_scale, const StepPlan& plan);
  void freeze(const std::set<std::string>& frozen);
  void after_step();
  bool evaluate();
  void log();
  StepReport report() const;

  // trainer_state.cc: starting, saving and restoring.
  void start();
  void start_fresh();
  void restore_newest(std::vector<int64_t> steps);  // an unreadable one gives way to the one before
  void restore(const TrainingCheckpoint& checkpoint);
  void check_same_run(const TrainingCheckpoint& checkpoint) const;
  std::vector<NamedTensor> stored_tensors() const;  // what a checkpoint holds beside the optimizer
  void save_checkpoint();
  void load_best();
  bool search_due() const;
  void search();
  void search_within_training();
  TrainingResult result(bool paused) const;
  double total_seconds() const;
  double total_cpu_seconds() const;

  bool at_epoch_end() const { return state_.batch >= epoch_batches_; }
  bool finished() const { return state_.stopped_early || state_.step >= total_steps_; }
  std::string best_metric() const;
  template <class Call>
  void tell(Call&& call) {
    for (const auto& sink : setup_.sinks) call(*sink);
  }

  TrainerSetup setup_;
  TrainingData& data_;
  int64_t total_steps_;  // of this run
  Schedule schedule_;
  std::unique_ptr<Optimizer> optimizer_;
  GradientWatch watch_;
  CheckpointStore checkpoints_;
  OneProcess alone_;
  Communicator* ranks_;
  RunState state_;
  int64_t epoch_batches_ = 0;  // micro-batches of the current epoch
  bool sinks_ended_ = false;
  int64_t saved_step_ = -1;  // step of the newest checkpoint
  double last_lr_ = 0.0;
  double last_grad_norm_ = 0.0;
  double seconds_before_ = 0.0;  // of the parts before this process
  double cpu_seconds_before_ = 0.0;
  Stopwatch stopwatch_;  // of this part
};

/// The parameters of a model as trainable tensors, with gradients switched on: training without an adapter.
std::vector<TrainableTensor> all_trainable(const std::vector<Parameter>& parameters);

/// Optimizer steps of the whole run.
int64_t count_steps(const TrainOptions& options, TrainingData& data);

/// Groups with their learning rates: head and the rest, each split into matrices (decayed) and vectors (not
/// decayed), and by TrainableTensor::lr_scale.
std::vector<OptimizerGroup> optimizer_groups(const TrainOptions& options,
                                             const std::vector<TrainableTensor>& trainable);

/// The optimizer that train.optimizer names.
std::unique_ptr<Optimizer> make_optimizer(const TrainOptions& options, std::vector<OptimizerGroup> groups);

}  // namespace msplora
