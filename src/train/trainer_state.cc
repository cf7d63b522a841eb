#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <fmt/ranges.h>
#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/core/interrupt.h"
#include "msplora/core/log.h"
#include "msplora/train/runtime.h"
#include "msplora/train/trainer.h"

namespace msplora {
namespace {

std::vector<NamedTensor> named(const std::vector<TrainableTensor>& trainable) {
  std::vector<NamedTensor> parameters;
  for (const TrainableTensor& tensor : trainable) parameters.push_back({tensor.name, tensor.tensor});
  return parameters;
}

/// Copies values by name; every tensor must have exactly one counterpart of its shape.
void copy_values(const std::vector<NamedTensor>& targets, const std::vector<NamedTensor>& values,
                 const std::string& where) {
  std::map<std::string, at::Tensor> by_name;
  for (const NamedTensor& value : values) by_name[value.name] = value.tensor;
  ErrorList errors;
  for (const NamedTensor& target : targets) {
    const auto found = by_name.find(target.name);
    if (found == by_name.end()) {
      errors.add(target.name, "missing");
    } else if (found->second.sizes() != target.tensor.sizes()) {
      errors.add(target.name, fmt::format("expected [{}], found [{}]", fmt::join(target.tensor.sizes(), ", "),
                                          fmt::join(found->second.sizes(), ", ")));
    }
  }
  for (const NamedTensor& value : values) {
    const bool known = std::any_of(targets.begin(), targets.end(),
                                   [&](const NamedTensor& target) { return target.name == value.name; });
    if (!known) errors.add(value.name, "unexpected");
  }
  errors.throw_if_any(ErrorCode::kModel, where + ": the trained tensors do not fit");
  c10::NoGradGuard no_grad;
  for (const NamedTensor& target : targets) at::Tensor(target.tensor).copy_(by_name[target.name]);
}

TrainerSetup checked(TrainerSetup setup) {
  if (setup.trainable.empty()) {
    throw Error(ErrorCode::kConfig, "training", "nothing is trainable",
                "name modules in adapter.target_modules or adapter.modules_to_save");
  }
  ErrorList errors;
  check_train_options(setup.options, errors);
  errors.throw_if_any(ErrorCode::kConfig, "the training options are wrong");
  return setup;
}

/// The options of a run of one process that takes the same steps.
TrainOptions of_all_ranks(const TrainerSetup& setup) {
  TrainOptions options = setup.options;
  if (setup.ranks != nullptr) options.accumulation *= setup.ranks->size();
  return options;
}

}  // namespace

Trainer::Trainer(TrainerSetup setup, TrainingData& data)
    : setup_(checked(std::move(setup))),
      data_(data),
      total_steps_(count_steps(of_all_ranks(setup_), data)),
      schedule_(setup_.options.schedule, setup_.schedule_steps > 0 ? setup_.schedule_steps : total_steps_,
                setup_.options.warmup_steps, setup_.options.warmup_ratio),
      optimizer_(make_optimizer(setup_.options, optimizer_groups(setup_.options, setup_.trainable))),
      watch_(named(setup_.trainable)),
      checkpoints_(setup_.directory),
      ranks_(setup_.ranks != nullptr ? setup_.ranks : &alone_) {
  const auto names = data_.metric_names();
  const std::string& wanted = setup_.options.best_metric;
  if (data_.can_evaluate() && !wanted.empty() &&
      std::find(names.begin(), names.end(), wanted) == names.end()) {
    throw Error(ErrorCode::kConfig, "train.best_metric",
                fmt::format("the task has no metric `{}`; it has {}", wanted, fmt::join(names, ", ")),
                did_you_mean(wanted, names));
  }
  if (setup_.options.early_stopping_patience > 0 && !data_.can_evaluate()) {
    throw Error(ErrorCode::kConfig, "train.early_stopping_patience",
                "there is no validation data, so no evaluation could stop the run",
                "data.validation or data.validation_fraction; or remove it");
  }
  if (setup_.adapter != nullptr && setup_.adapter->search() != nullptr && !data_.can_evaluate()) {
    throw Error(ErrorCode::kConfig, "training",
                fmt::format("method {} ends with a search on validation data, but there is none",
                            setup_.adapter->config().method),
                "data.validation or data.validation_fraction");
  }
}

Trainer::~Trainer() = default;

void Trainer::start() {
  stopwatch_.restart();
  const bool resumes = setup_.resume && setup_.keeps_checkpoints;
  if (setup_.keeps_checkpoints) checkpoints_.remove_leftovers();
  const std::vector<int64_t> steps = resumes ? checkpoints_.steps() : std::vector<int64_t>();
  const bool resumed = !steps.empty();
  if (resumed) {
    restore_newest(steps);
  } else {
    start_fresh();
  }
  epoch_batches_ = data_.num_batches(state_.epoch);
  RunInfo info{setup_.method, total_steps_, state_.step, resumed, 0};
  for (const TrainableTensor& tensor : setup_.trainable) info.trainable_parameters += tensor.tensor.numel();
  tell([&](EventSink& sink) { sink.on_start(info); });
  if (resumes) {
    const std::string text = resumed ? fmt::format("resumed from {}", checkpoints_.path(state_.step).string())
                                     : "no checkpoint to resume from; starting at the beginning";
    tell([&](EventSink& sink) { sink.on_message(text); });
  }
}

void Trainer::start_fresh() {
  if (setup_.keeps_checkpoints) checkpoints_.remove_all();
  state_ = {};
}

void Trainer::check_same_run(const TrainingCheckpoint& checkpoint) const {
  const std::string where = checkpoints_.path(checkpoint.state.step).string();
  if (!setup_.recipe.is_null() && !checkpoint.recipe.is_null()) {
    const auto keys = changed_keys(checkpoint.recipe, setup_.recipe);
    ErrorList errors;
    for (const std::string& key : keys) {
      const bool is_length = key == "train.epochs" || key == "train.max_steps";
      errors.add(key, "differs from the run to be resumed",
                 is_length
                     ? "the learning rates so far belong to the run's length; train.stop_at pauses a run "
                       "without changing it"
                     : "");
    }
    errors.throw_if_any(ErrorCode::kConfig, where + ": made with other options");
  }
  if (checkpoint.data_fingerprint != data_.fingerprint()) {
    throw Error(
        ErrorCode::kConfig, where,
        "the training data has changed since the checkpoint was made, or was read by another version of "
        "msplora",
        "resume with the same data and version, or start anew in another directory");
  }
  if (checkpoint.base_fingerprint != setup_.base_fingerprint) {
    throw Error(ErrorCode::kConfig, where, "the base model has changed since the checkpoint was made",
                "resume with the same model, or start anew in another directory");
  }
}

void Trainer::restore_newest(std::vector<int64_t> steps) {
  std::vector<int64_t> unreadable;
  for (;; steps.pop_back()) {
    TrainingCheckpoint checkpoint;
    try {
      checkpoint = checkpoints_.load(steps.back());
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kFormat || steps.size() == 1) throw;
      unreadable.push_back(steps.back());
      log_warning(fmt::format("{} cannot be read and is left out: {}",
                              checkpoints_.path(steps.back()).string(), error.what()));
      continue;
    }
    restore(checkpoint);
    break;
  }
  for (const int64_t step : unreadable) checkpoints_.remove(step);
}

void Trainer::restore(const TrainingCheckpoint& checkpoint) {
  check_same_run(checkpoint);
  const std::string where = checkpoints_.path(checkpoint.state.step).string();
  copy_values(stored_tensors(), checkpoint.trainable, where);
  optimizer_->load_state(checkpoint.optimizer, where);
  if (setup_.adapter != nullptr && !checkpoint.adapter_state.is_null()) {
    setup_.adapter->restore(checkpoint.adapter_state, RestorePhase::kValues);
  }
  state_ = checkpoint.state;
  saved_step_ = state_.step;
  seconds_before_ = state_.total_seconds;
  cpu_seconds_before_ = state_.cpu_seconds;
}

std::vector<NamedTensor> Trainer::stored_tensors() const {
  std::vector<NamedTensor> tensors;
  for (const TrainableTensor& tensor : setup_.trainable)
    tensors.push_back({tensor.name, tensor.tensor.detach()});
  if (setup_.adapter != nullptr) {
    AdapterState state = setup_.adapter->state(setup_.options.optimizer);
    for (auto* more : {&state.tensors, &state.training}) {
      for (NamedTensor& tensor : *more) tensors.push_back(std::move(tensor));
    }
  }
  return tensors;
}

void Trainer::save_checkpoint() {
  if (saved_step_ == state_.step || !setup_.keeps_checkpoints) return;
  TrainingCheckpoint checkpoint;
  state_.total_seconds = total_seconds();
  state_.cpu_seconds = total_cpu_seconds();
  checkpoint.state = state_;
  checkpoint.trainable = stored_tensors();
  checkpoint.optimizer = optimizer_->state();
  if (setup_.adapter != nullptr) checkpoint.adapter_state = setup_.adapter->state().facts;
  checkpoint.recipe = setup_.recipe;
  checkpoint.data_fingerprint = data_.fingerprint();
  checkpoint.base_fingerprint = setup_.base_fingerprint;
  checkpoints_.save(checkpoint);
  saved_step_ = state_.step;
  checkpoints_.prune(setup_.options.keep_checkpoints, state_.best_step);
}

void Trainer::load_best() {
  if (!setup_.options.load_best_at_end || !setup_.keeps_checkpoints) return;
  if (state_.best_step < 0 || state_.best_step == state_.step) return;
  const TrainingCheckpoint best = checkpoints_.load(state_.best_step);
  copy_values(stored_tensors(), best.trainable, checkpoints_.path(state_.best_step).string());
  if (setup_.adapter != nullptr && !best.adapter_state.is_null())
    setup_.adapter->restore(best.adapter_state, RestorePhase::kValues);
  const std::string text = fmt::format("took the weights of step {}, the best evaluation", state_.best_step);
  tell([&](EventSink& sink) { sink.on_message(text); });
}

bool Trainer::search_due() const {
  if (setup_.adapter == nullptr || !state_.search.is_null()) return false;
  const Search* search = setup_.adapter->search();
  return search != nullptr && (finished() || state_.step >= search->due(total_steps_));
}

void Trainer::search_within_training() {
  save_checkpoint();
  search();
  // Evaluations so far were of something else than what is trained from here on.
  state_.best_evaluation.reset();
  state_.best_step = -1;
  state_.evaluations_without_gain = 0;
}

void Trainer::search() {
  const std::string metric = best_metric();
  const auto say = [this](const std::string& text) { tell([&](EventSink& sink) { sink.on_message(text); }); };
  const auto score = [&] {
    if (interrupt_requested()) {
      throw Error(ErrorCode::kInterrupted, "search",
                  setup_.keeps_checkpoints
                      ? "stopped; the training is saved, and the search is repeated when it is continued"
                      : "stopped",
                  setup_.keeps_checkpoints ? "continue with --resume" : "");
    }
    const double value = data_.evaluate().value(metric);
    return smaller_is_better(metric) ? -value : value;
  };
  nlohmann::json found = setup_.adapter->search()->run(score, say);
  const Evaluation evaluation = data_.evaluate();
  found["metric"] = metric;
  found["step"] = state_.step;
  for (const auto& [name, value] : evaluation.metrics) found["evaluation"][name] = value;
  state_.search = std::move(found);
  say(fmt::format("searched: {}", format_metrics(evaluation)));
}

double Trainer::total_seconds() const {
  return seconds_before_ + stopwatch_.seconds();
}

double Trainer::total_cpu_seconds() const {
  return cpu_seconds_before_ + stopwatch_.cpu_seconds();
}

TrainingResult Trainer::result(bool paused) const {
  TrainingResult result;
  result.steps = state_.step;
  result.total_steps = total_steps_;
  result.stopped_early = state_.stopped_early;
  result.paused = paused;
  result.last_loss = state_.last_loss;
  result.best_metric = best_metric();
  result.best = state_.best_evaluation;
  result.last = state_.last_evaluation;
  result.best_step = state_.best_step;
  result.seconds = total_seconds();
  result.cpu_seconds = total_cpu_seconds();
  result.train_seconds = state_.train_seconds;
  result.tokens = state_.tokens;
  if (state_.train_seconds > 0)
    result.tokens_per_second = static_cast<double>(state_.tokens) / state_.train_seconds;
  result.peak_memory_bytes = peak_memory_bytes();
  result.search = state_.search;
  return result;
}

std::vector<TrainableTensor> all_trainable(const std::vector<Parameter>& parameters) {
  std::vector<TrainableTensor> trainable;
  for (Parameter parameter : parameters) {
    const at::Tensor tensor =
        parameter.tensor().defined() ? parameter.tensor() : parameter.own(parameter.dtype());
    tensor.requires_grad_(true);
    trainable.push_back({parameter.name, tensor, ParameterGroup::kAdapter, 0});
  }
  return trainable;
}

int64_t count_steps(const TrainOptions& options, TrainingData& data) {
  if (data.num_batches(0) < 1) throw Error(ErrorCode::kData, "training", "there is nothing to train on");
  if (options.max_steps > 0) return options.max_steps;
  int64_t steps = 0;
  for (int64_t epoch = 0; epoch < options.epochs; ++epoch) {
    steps += (data.num_batches(epoch) + options.accumulation - 1) / options.accumulation;
  }
  return steps;
}

std::vector<OptimizerGroup> optimizer_groups(const TrainOptions& options,
                                             const std::vector<TrainableTensor>& trainable) {
  const double head_lr = options.head_lr.value_or(options.lr);
  std::vector<OptimizerGroup> groups;
  for (const TrainableTensor& tensor : trainable) {
    const bool is_head = tensor.group == ParameterGroup::kHead, is_matrix = tensor.tensor.dim() >= 2;
    std::string name = fmt::format("{}{}", is_head ? "head " : "", is_matrix ? "matrices" : "vectors");
    if (tensor.lr_scale != 1.0) name += fmt::format(" at {} of the rate", tensor.lr_scale);
    auto found = std::find_if(groups.begin(), groups.end(),
                              [&](const OptimizerGroup& group) { return group.name == name; });
    if (found == groups.end()) {
      const double lr = (is_head ? head_lr : options.lr) * tensor.lr_scale;
      groups.push_back({name, lr, is_matrix ? options.weight_decay : 0.0, {}});
      found = groups.end() - 1;
    }
    found->tensors.push_back({tensor.name, tensor.tensor});
  }
  return groups;
}

std::unique_ptr<Optimizer> make_optimizer(const TrainOptions& options, std::vector<OptimizerGroup> groups) {
  if (options.optimizer == "sgd") return std::make_unique<Sgd>(std::move(groups));
  return std::make_unique<AdamW>(AdamWOptions{options.beta1, options.beta2, options.eps}, std::move(groups));
}

}  // namespace msplora
