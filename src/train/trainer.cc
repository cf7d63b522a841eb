#include "msplora/train/trainer.h"

#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/interrupt.h"
#include "msplora/core/profile.h"
#include "msplora/core/stopwatch.h"
#include "msplora/nn/recompute.h"

namespace msplora {
namespace {

constexpr const char* kNumericsHint =
    "a smaller learning rate, train.clip_norm or float32 may help; the last checkpoint is untouched";

/// Targets, tokens and sequences of this rank's micro-batches.
std::vector<double> counts_of(const TrainingData& data, const std::vector<Batch>& batches) {
  std::vector<double> counts(3, 0.0);
  for (const Batch& batch : batches) {
    counts[0] += static_cast<double>(data.num_targets(batch));
    counts[1] += static_cast<double>(batch.tokens());
    counts[2] += static_cast<double>(batch.sequences());
  }
  return counts;
}

}  // namespace

TrainingResult Trainer::run() {
  sinks_ended_ = false;
  try {
    TrainingResult result = train();
    end_sinks();
    return result;
  } catch (...) {
    try {
      end_sinks();
    } catch (...) {
      // What stopped the run is what its caller should hear of.
    }
    throw;
  }
}

void Trainer::end_sinks() {
  if (std::exchange(sinks_ended_, true)) return;
  std::exception_ptr problem;
  for (const auto& sink : setup_.sinks) {
    try {
      sink->on_end();
    } catch (...) {
      if (!problem) problem = std::current_exception();
    }
  }
  if (problem) std::rethrow_exception(problem);
}

TrainingResult Trainer::train() {
  start();
  while (!finished()) {
    if (setup_.options.stop_at > 0 && state_.step >= setup_.options.stop_at) {
      save_checkpoint();
      return result(/*paused=*/true);
    }
    if (search_due()) search_within_training();
    if (at_epoch_end()) {
      ++state_.epoch;
      state_.batch = 0;
      epoch_batches_ = data_.num_batches(state_.epoch);
    }
    do_step();
    after_step();
    if (on_any_rank(interrupt_requested()) && !finished()) {
      save_checkpoint();
      throw Error(ErrorCode::kInterrupted, "training",
                  setup_.keeps_checkpoints ? fmt::format("stopped at step {}; everything is saved in {}",
                                                         state_.step, checkpoints_.path(state_.step).string())
                                           : fmt::format("stopped at step {}", state_.step),
                  setup_.keeps_checkpoints ? "continue with --resume" : "");
    }
  }
  load_best();
  if (search_due()) search();
  return result(/*paused=*/false);
}

void Trainer::do_step() {
  const ProfileScope scope("step, outside of the parts below");
  const Stopwatch watch;
  Adapter* adapter = setup_.adapter;
  const TrainingProgress progress{state_.step, total_steps_};
  const StepPlan plan = adapter != nullptr ? adapter->begin_step(progress) : StepPlan();
  freeze(plan.frozen);
  const std::vector<Batch> batches = take_batches();
  const std::vector<double> counts = sum_over_ranks(*ranks_, counts_of(data_, batches));
  double loss = 0;
  std::exception_ptr problem;
  try {
    loss = backward(batches, counts[0]);
  } catch (const Error&) {
    problem = std::current_exception();
  }
  // All ranks stop where one does.
  const bool failed = on_any_rank(problem != nullptr);
  if (problem) std::rethrow_exception(problem);
  if (failed) {
    throw Error(ErrorCode::kNumerics, fmt::format("training, step {}", state_.step + 1),
                "another rank of the run has stopped");
  }
  loss = sum_over_ranks(*ranks_, {loss})[0];
  reduce(plan.frozen);
  const double lr_factor = schedule_.factor(setup_.schedule_begin + state_.step);
  if (adapter != nullptr) adapter->gradients_ready(progress);
  if (!state_.first_loss) state_.first_loss = loss;
  constexpr double kExplosion = 5.0;
  const bool exploded = loss > kExplosion * std::max(1.0, *state_.first_loss);
  const GradientReport gradients = [&] {
    const ProfileScope norm("gradient norm");
    return watch_.examine(plan.frozen, lr_factor, exploded);
  }();
  if (!gradients.not_finite.empty()) {
    throw Error(
        ErrorCode::kNumerics, fmt::format("training, step {}", state_.step + 1),
        fmt::format("the gradient of {} is not finite (loss {:.6g}); {}", gradients.not_finite.front(), loss,
                    batches.empty() ? std::string("of another rank") : data_.describe(batches.front())),
        kNumericsHint);
  }
  update(progress, lr_factor, clip_factor(gradients.norm, setup_.options.clip_norm), plan);

  const double seconds = watch.seconds();
  ++state_.step;
  state_.tokens += static_cast<int64_t>(counts[1]);
  state_.window.tokens += static_cast<int64_t>(counts[1]);
  state_.examples += static_cast<int64_t>(counts[2]);
  state_.train_seconds += seconds;
  state_.last_loss = loss;
  state_.window.loss += loss;
  state_.window.seconds += seconds;
  ++state_.window.steps;
  last_lr_ = setup_.options.lr * lr_factor;
  last_grad_norm_ = gradients.norm;
}

bool Trainer::on_any_rank(bool what) {
  return sum_over_ranks(*ranks_, {what ? 1.0 : 0.0})[0] > 0;
}

/// This rank's micro-batches of the step, in which every rank has its turn.
std::vector<Batch> Trainer::take_batches() {
  const int64_t each = setup_.options.accumulation;
  std::vector<Batch> batches;
  for (int64_t i = 0; i < each * ranks_->size() && !at_epoch_end(); ++i, ++state_.batch) {
    if (i / each == ranks_->rank()) batches.push_back(data_.batch(state_.epoch, state_.batch));
  }
  return batches;
}

void Trainer::reduce(const std::set<std::string>& frozen) {
  std::vector<at::Tensor> trained;
  for (const TrainableTensor& entry : setup_.trainable) {
    if (!frozen.contains(entry.name)) trained.push_back(entry.tensor);
  }
  sum_gradients(*ranks_, trained);
  if (setup_.adapter != nullptr) join_slots(*ranks_, setup_.adapter->reduced_state());
}

void Trainer::update(TrainingProgress progress, double lr_factor, double gradient_scale,
                     const StepPlan& plan) {
  const ProfileScope scope("optimizer");
  Adapter* adapter = setup_.adapter;
  std::set<std::string> left_alone = plan.frozen;
  left_alone.insert(plan.updated_by_method.begin(), plan.updated_by_method.end());
  optimizer_->step(lr_factor, gradient_scale, left_alone, plan.lr_factors);
  if (adapter != nullptr) {
    const TrainOptions& o = setup_.options;
    adapter->own_update(
        progress, {o.optimizer, o.lr * lr_factor, o.weight_decay, o.beta1, o.beta2, o.eps, gradient_scale});
  }
  optimizer_->zero_grad();
  ++progress.step;
  if (adapter != nullptr) adapter->end_step(progress, *optimizer_);
}

double Trainer::backward(const std::vector<Batch>& batches, double targets) {
  // One division by the targets of the whole step: micro-batches of different sizes weigh what they hold.
  const double scale = 1.0 / std::max(1.0, targets);
  double loss = 0.0;
  for (size_t i = 0; i < batches.size(); ++i) {
    ForwardContext context;
    context.training = true;
    context.seed = static_cast<uint64_t>(setup_.options.seed);
    context.step = static_cast<uint64_t>(state_.step);
    context.micro_batch = static_cast<uint64_t>(ranks_->rank() * setup_.options.accumulation) + i;
    at::Tensor sum;
    {
      const ProfileScope scope("forward, rest");
      const CheckpointActivations checkpoint(setup_.options.checkpoint_activations);
      sum = data_.loss_sum(batches[i], context);
    }
    const double value = sum.item<double>();
    if (!std::isfinite(value)) {
      throw Error(ErrorCode::kNumerics,
                  fmt::format("training, step {}, micro-batch {}", state_.step + 1, i + 1),
                  fmt::format("the loss is {}; {}", value, data_.describe(batches[i])), kNumericsHint);
    }
    if (!sum.requires_grad()) {
      throw Error(ErrorCode::kConfig, "training", "the loss does not depend on any trainable tensor",
                  "adapt modules that take part in the model's output");
    }
    {
      const ProfileScope scope("backward, rest");
      (sum * scale).backward();
    }
    loss += value * scale;
  }
  return loss;
}

void Trainer::freeze(const std::set<std::string>& frozen) {
  if (setup_.adapter == nullptr) return;
  size_t free_count = 0;
  for (const TrainableTensor& trainable : setup_.trainable) {
    const bool is_frozen = frozen.contains(trainable.name);
    // No gradient is computed for what is not updated.
    if (trainable.tensor.requires_grad() == is_frozen) trainable.tensor.requires_grad_(!is_frozen);
    if (!is_frozen) ++free_count;
  }
  if (free_count == 0) {
    throw Error(ErrorCode::kConfig, "training",
                fmt::format("every tensor is frozen at step {}", state_.step + 1));
  }
}

StepReport Trainer::report() const {
  StepReport report;
  report.step = state_.step;
  report.epoch =
      static_cast<double>(state_.epoch) +
      static_cast<double>(state_.batch) / static_cast<double>(std::max<int64_t>(1, epoch_batches_));
  report.loss = state_.window.steps > 0 ? state_.window.loss / static_cast<double>(state_.window.steps)
                                        : state_.last_loss;
  report.lr = last_lr_;
  report.grad_norm = last_grad_norm_;
  report.tokens = state_.tokens;
  report.tokens_per_second =
      state_.window.seconds > 0 ? static_cast<double>(state_.window.tokens) / state_.window.seconds : 0.0;
  report.seconds = total_seconds();
  return report;
}

void Trainer::log() {
  const StepReport now = report();
  tell([&](EventSink& sink) { sink.on_log(now); });
  state_.window = {};
}

void Trainer::after_step() {
  const TrainOptions& options = setup_.options;
  const bool is_last = state_.step >= total_steps_;
  const StepReport now = report();
  tell([&](EventSink& sink) { sink.on_step(now); });
  if (state_.step % options.log_every == 0 || is_last) log();

  const bool evaluation_due =
      is_last || (options.eval_every > 0 ? state_.step % options.eval_every == 0 : at_epoch_end());
  bool is_best = false;
  const bool evaluated = evaluation_due && data_.can_evaluate();
  if (evaluated) is_best = evaluate();

  const bool save_due =
      options.save_every > 0 ? state_.step % options.save_every == 0 : (evaluated || at_epoch_end());
  if (save_due || is_best || finished()) save_checkpoint();
}

std::string Trainer::best_metric() const {
  if (!setup_.options.best_metric.empty()) return setup_.options.best_metric;
  const auto names = data_.metric_names();
  return names.empty() ? std::string() : names.front();
}

bool Trainer::evaluate() {
  const Evaluation evaluation = data_.evaluate();
  const std::string metric = best_metric();
  const double value = evaluation.value(metric);
  bool is_best = std::isfinite(value);
  if (is_best && state_.best_evaluation) {
    const double best = state_.best_evaluation->value(metric);
    is_best = smaller_is_better(metric) ? value < best : value > best;
  }
  state_.last_evaluation = evaluation;
  state_.last_evaluation_step = state_.step;
  if (is_best) {
    state_.best_evaluation = evaluation;
    state_.best_step = state_.step;
    state_.evaluations_without_gain = 0;
  } else {
    ++state_.evaluations_without_gain;
  }
  const int64_t patience = setup_.options.early_stopping_patience;
  if (patience > 0 && state_.evaluations_without_gain >= patience && state_.step < total_steps_) {
    state_.stopped_early = true;
  }
  const double epoch = report().epoch;
  tell([&](EventSink& sink) { sink.on_evaluation(state_.step, epoch, evaluation, is_best); });
  if (state_.stopped_early) {
    const std::string text =
        fmt::format("stopped early: {} evaluations without a better {}", patience, metric);
    tell([&](EventSink& sink) { sink.on_message(text); });
  }
  return is_best;
}

}  // namespace msplora
