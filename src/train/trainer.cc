#include "msplora/train/trainer.h"

#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "msplora/core/interrupt.h"
#include "msplora/core/profile.h"
#include "msplora/nn/recompute.h"

namespace msplora {
namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

TrainingResult Trainer::run() {
  start();
  while (!finished()) {
    if (setup_.options.stop_at > 0 && state_.step >= setup_.options.stop_at) {
      save_checkpoint();
      tell([](EventSink& sink) { sink.on_end(); });
      return result(/*paused=*/true);
    }
    if (search_due()) search_within_training();
    if (at_epoch_end()) {
      ++state_.epoch;
      state_.batch = 0;
      epoch_batches_ = task_.num_batches(state_.epoch);
    }
    do_step();
    after_step();
    if (interrupt_requested() && !finished()) {
      save_checkpoint();
      tell([](EventSink& sink) { sink.on_end(); });
      throw Error(ErrorCode::kInterrupted, "training",
                  setup_.keeps_checkpoints ? fmt::format("stopped at step {}; everything is saved in {}",
                                                         state_.step, checkpoints_.path(state_.step).string())
                                           : fmt::format("stopped at step {}", state_.step),
                  setup_.keeps_checkpoints ? "continue with --resume" : "");
    }
  }
  load_best();
  if (search_due()) search();
  tell([](EventSink& sink) { sink.on_end(); });
  return result(/*paused=*/false);
}

void Trainer::do_step() {
  const ProfileScope scope("step, outside of the parts below");
  const auto began = std::chrono::steady_clock::now();
  Adapter* adapter = setup_.adapter;
  const TrainingProgress progress{state_.step, total_steps_};
  if (adapter != nullptr) adapter->on_step_begin(progress);
  std::set<std::string> frozen = freeze();
  std::vector<Batch> batches;
  int64_t targets = 0;
  while (static_cast<int64_t>(batches.size()) < setup_.options.accumulation && !at_epoch_end()) {
    batches.push_back(task_.batch(state_.epoch, state_.batch++));
    targets += task_.num_targets(batches.back());
  }
  const double loss = backward(batches, targets);
  const double lr_factor = schedule_.factor(setup_.schedule_begin + state_.step);
  if (adapter != nullptr) adapter->on_gradients(progress);
  const GradientReport gradients = [&] {
    const ProfileScope norm("gradient norm");
    return watch_.examine(frozen, lr_factor);
  }();
  if (!gradients.not_finite.empty()) {
    throw Error(
        ErrorCode::kNumerics, fmt::format("training, step {}", state_.step + 1),
        fmt::format("the gradient of {} is not finite (loss {:.6g}); {}", gradients.not_finite.front(), loss,
                    task_.describe(batches.front())),
        "a smaller learning rate, train.clip_norm or float32 may help; the last checkpoint is untouched");
  }
  update(progress, lr_factor, clip_factor(gradients.norm, setup_.options.clip_norm), std::move(frozen));

  const double seconds = seconds_since(began);
  ++state_.step;
  for (const Batch& batch : batches) {
    state_.tokens += static_cast<int64_t>(batch.tokens());
    state_.window.tokens += static_cast<int64_t>(batch.tokens());
    state_.examples += static_cast<int64_t>(batch.sequences());
  }
  state_.train_seconds += seconds;
  state_.last_loss = loss;
  state_.window.loss += loss;
  state_.window.seconds += seconds;
  ++state_.window.steps;
  last_lr_ = setup_.options.lr * lr_factor;
  last_grad_norm_ = gradients.norm;
}

void Trainer::update(TrainingProgress progress, double lr_factor, double gradient_scale,
                     std::set<std::string> frozen) {
  const ProfileScope scope("optimizer");
  Adapter* adapter = setup_.adapter;
  if (adapter != nullptr) frozen.merge(adapter->updated_by_method());
  optimizer_->step(lr_factor, gradient_scale, frozen,
                   adapter != nullptr ? adapter->lr_factors_now(progress) : std::map<std::string, double>());
  if (adapter != nullptr) {
    const TrainOptions& o = setup_.options;
    adapter->own_update(
        progress, {o.optimizer, o.lr * lr_factor, o.weight_decay, o.beta1, o.beta2, o.eps, gradient_scale});
  }
  optimizer_->zero_grad();
  ++progress.step;
  if (adapter != nullptr) adapter->on_step_end(progress, *optimizer_);
}

double Trainer::backward(const std::vector<Batch>& batches, int64_t targets) {
  // One division by the targets of the whole step: micro-batches of different sizes weigh what they hold.
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(1, targets));
  double loss = 0.0;
  for (size_t i = 0; i < batches.size(); ++i) {
    ForwardContext context;
    context.training = true;
    context.seed = static_cast<uint64_t>(setup_.options.seed);
    context.step = static_cast<uint64_t>(state_.step);
    context.micro_batch = i;
    at::Tensor sum;
    {
      const ProfileScope scope("forward, rest");
      const CheckpointActivations checkpoint(setup_.options.checkpoint_activations);
      sum = task_.loss_sum(batches[i], context);
    }
    const double value = sum.item<double>();
    if (!std::isfinite(value)) {
      throw Error(
          ErrorCode::kNumerics, fmt::format("training, step {}, micro-batch {}", state_.step + 1, i + 1),
          fmt::format("the loss is {}; {}", value, task_.describe(batches[i])),
          "a smaller learning rate, train.clip_norm or float32 may help; the last checkpoint is untouched");
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

std::set<std::string> Trainer::freeze() {
  if (setup_.adapter == nullptr) return {};
  const auto names = setup_.adapter->frozen_now({state_.step, total_steps_});
  const std::set<std::string> frozen(names.begin(), names.end());
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
  return frozen;
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
  const bool evaluated = evaluation_due && task_.can_evaluate();
  if (evaluated) is_best = evaluate();

  const bool save_due =
      options.save_every > 0 ? state_.step % options.save_every == 0 : (evaluated || at_epoch_end());
  if (save_due || is_best || finished()) save_checkpoint();
}

std::string Trainer::best_metric() const {
  if (!setup_.options.best_metric.empty()) return setup_.options.best_metric;
  const auto names = task_.metric_names();
  return names.empty() ? std::string() : names.front();
}

bool Trainer::evaluate() {
  const Evaluation evaluation = task_.evaluate();
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
