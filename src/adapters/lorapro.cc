// LoRA-Pro (arXiv 2407.18242): LoRA's factors moved so that W + s B A follows the low-rank gradient nearest
// to the full one. Mode `full` keeps Adam's moments of that gradient in the shape of W (with SGD it follows
// the gradient itself); mode `efficient` replaces the gradients of the factors and leaves the rest to the
// optimizer.
#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adapters/equivalent_gradient.h"
#include "adapters/initial.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"

namespace msplora::detail {
namespace {

struct LoraProOptions {
  std::string mode = "full";
  std::string split = "sylvester";
  double damping = 1e-8;
  double relative_damping = 0.0;
  double max_relative_step = 0.0;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("mode", mode,
            "`full`: moments of the size of the adapted weights (the paper's algorithm); `efficient`: "
            "moments of the size of the factors",
            one_of({"full", "efficient"}));
    visitor(
        "split", split,
        "How a step is divided between the factors: nearest to their own gradients, equal shares, or X = 0",
        one_of({"sylvester", "symmetric", "zero"}));
    visitor("damping", damping, "Added to the eigenvalues of BᵀB and AAᵀ before they are inverted",
            at_least(0));
    visitor("relative_damping", relative_damping,
            "The same relative to the mean eigenvalue of each matrix; above 0 it replaces damping",
            at_least(0));
    visitor("max_relative_step", max_relative_step,
            "full: largest step of A relative to its norm (A and B are scaled down together); 0: no limit",
            at_least(0));
  }
};

class LoraProAdapter : public LowRankAdapter {
 public:
  LoraProAdapter(MethodInput input, LowRankLayout layout)
      : LowRankAdapter(std::move(input), std::move(layout)),
        is_full_(config_.own<LoraProOptions>().mode == "full"),
        split_(parse_gradient_split(config_.own<LoraProOptions>().split)),
        damping_{config_.own<LoraProOptions>().damping, config_.own<LoraProOptions>().relative_damping} {}

  void gradients_ready(const TrainingProgress& progress) override {
    if (is_full_) return;
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < downs_.size(); ++i) {
      // One that is not finite is the trainer's to report.
      if (!has_gradients(i) || !is_finite(downs_[i].grad(), ups_[i].grad())) continue;
      const FactorMatrices step = equivalent(i, {downs_[i].grad(), ups_[i].grad()}, split_, progress);
      downs_[i].mutable_grad().copy_(step.down);
      ups_[i].mutable_grad().copy_(step.up);
    }
  }

  StepPlan begin_step(const TrainingProgress&) override {
    StepPlan plan;
    if (!is_full_) return plan;
    for (const GroupFactors& f : layout_.factors) plan.updated_by_method.insert({f.down_name, f.up_name});
    return plan;
  }

  void own_update(const TrainingProgress& progress, const StepRule& rule) override {
    if (!is_full_) return;
    const c10::NoGradGuard no_grad;
    const bool has_moments = keeps_moments(rule.optimizer);
    if (has_moments) {
      make_moments();
      steps_.add_(1);
    }
    for (size_t i = 0; i < downs_.size(); ++i) {
      if (!has_gradients(i)) continue;
      const FactorMatrices clipped = {downs_[i].grad() * rule.gradient_scale,
                                      ups_[i].grad() * rule.gradient_scale};
      take_step(
          i, has_moments ? adam_step(i, clipped, progress, rule) : equivalent(i, clipped, split_, progress),
          rule);
    }
  }

  AdapterState state(const std::string& optimizer = {}) const override {
    AdapterState state = LowRankAdapter::state(optimizer);
    if (!is_full_ || optimizer.empty() || !keeps_moments(optimizer)) return state;
    make_moments();
    std::vector<NamedTensor>& tensors = state.training;
    tensors.push_back({"lorapro.step", steps_});
    for (size_t i = 0; i < moments_.size(); ++i) {
      const std::string& path = sites_[layout_.plan.groups[i].owner].path;
      tensors.push_back({path + ".lorapro.exp_avg", moments_[i].first});
      tensors.push_back({path + ".lorapro.exp_avg_sq", moments_[i].second});
    }
    return state;
  }

 private:
  struct Moments {
    at::Tensor first, second;  // [out, in]
  };

  /// An adapter that is only used never asks for them: they are as large as the adapted weights.
  void make_moments() const {
    if (steps_.defined()) return;
    steps_ = at::zeros({1}, at::kLong);
    for (size_t i = 0; i < downs_.size(); ++i) {
      const Site& site = sites_[layout_.plan.groups[i].owner];
      const auto options = factor_options(site);
      const std::vector<int64_t> shape = {site.out_features, site.in_features};
      moments_.push_back({at::zeros(shape, options), at::zeros(shape, options)});
    }
  }

  static bool keeps_moments(const std::string& optimizer) { return optimizer != "sgd"; }

  static bool is_finite(const at::Tensor& a, const at::Tensor& b) {
    return std::isfinite(a.sum(at::kDouble).item<double>() + b.sum(at::kDouble).item<double>());
  }

  bool has_gradients(size_t i) const { return downs_[i].grad().defined() && ups_[i].grad().defined(); }

  FactorMatrices equivalent(size_t i, const FactorMatrices& gradients, GradientSplit split,
                            const TrainingProgress& progress) const {
    const FactorMatrices step =
        equivalent_gradients({downs_[i], ups_[i]}, gradients, layout_.factors[i].scaling, split, damping_);
    if (is_finite(step.down, step.up)) return step;
    throw Error(ErrorCode::kNumerics, fmt::format("training, step {}", progress.step + 1),
                fmt::format("the step of LoRA-Pro for {} is not finite", layout_.factors[i].down_name),
                "a larger adapter.lorapro.damping or a smaller learning rate may help; the last checkpoint "
                "is untouched");
  }

  /// Adam on the equivalent gradient of W', and back to the factors.
  FactorMatrices adam_step(size_t i, const FactorMatrices& gradients, const TrainingProgress& progress,
                           const StepRule& rule) {
    const at::Tensor &a = downs_[i], &b = ups_[i];
    auto& [first, second] = moments_[i];
    const double s = layout_.factors[i].scaling;
    const at::Tensor g = weight_change({a, b}, equivalent(i, gradients, GradientSplit::kZero, progress), s);
    first.mul_(rule.beta1).add_(g, 1.0 - rule.beta1);
    second.mul_(rule.beta2).addcmul_(g, g, 1.0 - rule.beta2);
    const auto step = static_cast<double>(steps_.item<int64_t>());
    const double correction1 = 1.0 - std::pow(rule.beta1, step);
    const double correction2 = 1.0 - std::pow(rule.beta2, step);
    const at::Tensor u = (first / correction1).div_((second / correction2).sqrt_().add_(rule.eps));
    return equivalent(i, {at::mm(b.t(), u) * s, at::mm(u, a.t()) * s}, split_, progress);
  }

  /// Within max_relative_step.
  void take_step(size_t i, const FactorMatrices& step, const StepRule& rule) {
    at::Tensor &a = downs_[i], &b = ups_[i];
    const double limit = config_.own<LoraProOptions>().max_relative_step;
    const double size = rule.lr * step.down.norm().item<double>();
    const double allowed = limit * a.norm().item<double>();
    const double factor = limit > 0 && size > allowed ? rule.lr * allowed / size : rule.lr;
    // The square root on both factors makes the decay of B A that of a whole weight.
    const double decay = std::sqrt(std::max(0.0, 1.0 - rule.lr * rule.weight_decay));
    a.mul_(decay).sub_((step.down * factor).to(a.scalar_type()));
    b.mul_(decay).sub_((step.up * factor).to(b.scalar_type()));
  }

  bool is_full_;
  GradientSplit split_;
  Damping damping_;
  // Of mode full, made when training asks for them:
  mutable std::vector<Moments> moments_;  // parallel to the factors
  mutable at::Tensor steps_;              // int64 [1]
};

std::vector<TensorSpec> lorapro_tensors(const PlanInput& input, ErrorList& errors) {
  if (input.config.dropout > 0) {
    errors.add(
        "adapter.dropout",
        fmt::format("{}, but with lorapro the gradients of both factors must come from one gradient of the "
                    "weight, which a mask on the update's input breaks",
                    input.config.dropout),
        "dropout: 0; the dropout of the base model may stay");
  }
  return lora_tensors(input, errors);
}

}  // namespace

Method lorapro_method() {
  Method method;
  method.name = "lorapro";
  method.summary = "LoRA whose steps follow the low-rank gradient nearest to the full one (2024)";
  method.traits = {.takes_dropout = false, .patterns = true};
  method.options = OptionGroup(LoraProOptions(), "Options of method lorapro");
  method.tensors = lorapro_tensors;
  method.create = [](MethodInput in) {
    LowRankLayout layout = lora_layout(in.config, in.sites);
    return std::make_unique<LoraProAdapter>(std::move(in), std::move(layout));
  };
  method.peft.keeps_lora_options = true;
  method.line = [](const AdapterConfig& config) {
    const LoraProOptions& o = config.own<LoraProOptions>();
    return lora_line(config, fmt::format(", {} moments, split {}", o.mode, o.split));
  };
  return method;
}

}  // namespace msplora::detail
