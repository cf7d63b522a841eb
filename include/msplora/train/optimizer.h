#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/io/safetensors.h"
#include "msplora/nn/linear.h"

namespace msplora {

/// Tensors that share a learning rate and a weight decay.
struct OptimizerGroup {
  std::string name;
  double lr = 0.0;
  double weight_decay = 0.0;
  std::vector<NamedTensor> tensors;  // float32 or float64, contiguous; their grad() is read
};

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
};

/// What the training loop asks of an optimizer.
class Optimizer : public OptimizerControl {
 public:
  /// One step with every learning rate multiplied by `lr_factor` and every gradient by `gradient_scale`;
  /// tensors named in `lr_factors` have a further factor. Tensors without a gradient and those named in
  /// `frozen` are left alone: value, moments and step count.
  virtual void step(double lr_factor, double gradient_scale, const std::set<std::string>& frozen,
                    const std::map<std::string, double>& lr_factors) = 0;
  /// Drops every gradient, so that the next backward pass writes instead of adding.
  virtual void zero_grad() = 0;
  /// What a resumed run needs; empty when there is nothing.
  virtual std::vector<NamedTensor> state() const = 0;
  /// Takes over a state. Throws Error{kModel} listing every missing, unexpected and mis-shaped entry.
  virtual void load_state(const std::vector<NamedTensor>& state, const std::string& where) = 0;
};

/// AdamW (Loshchilov & Hutter, ICLR 2019, algorithm 2), number for number as torch.optim.AdamW. With t the
/// steps that this tensor has taken:
///   p <- p - lr wd p
///   m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g²
///   p <- p - lr / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
/// in one pass over memory for each tensor.
class AdamW : public Optimizer {
 public:
  /// Throws Error{kUsage} on another dtype, a layout that is not contiguous or a name given twice.
  AdamW(AdamWOptions options, std::vector<OptimizerGroup> groups);

  void step(double lr_factor, double gradient_scale = 1.0, const std::set<std::string>& frozen = {},
            const std::map<std::string, double>& lr_factors = {}) override;

  /// Moments and step count of one tensor back to zero. Throws Error{kUsage} on an unknown name.
  void reset(const std::string& name) override;

  void zero_grad() override;

  const std::vector<OptimizerGroup>& groups() const { return groups_; }

  /// "NAME.exp_avg", "NAME.exp_avg_sq" (aliasing the optimizer's own) and "NAME.step" (int64, one element) of
  /// every tensor.
  std::vector<NamedTensor> state() const override;
  void load_state(const std::vector<NamedTensor>& state, const std::string& where) override;

 private:
  struct Slot {
    std::string name;
    at::Tensor parameter;
    at::Tensor first;   // m
    at::Tensor second;  // v
    int64_t steps = 0;
    size_t group = 0;
  };

  AdamWOptions options_;
  std::vector<OptimizerGroup> groups_;
  std::vector<Slot> slots_;
};

/// Gradient descent without momentum, as torch.optim.SGD: p <- p - lr (g + wd p). It has no state.
class Sgd : public Optimizer {
 public:
  /// Throws Error{kUsage} as AdamW does.
  explicit Sgd(std::vector<OptimizerGroup> groups);

  void step(double lr_factor, double gradient_scale, const std::set<std::string>& frozen,
            const std::map<std::string, double>& lr_factors = {}) override;
  void reset(const std::string& name) override;
  void zero_grad() override;
  std::vector<NamedTensor> state() const override { return {}; }
  void load_state(const std::vector<NamedTensor>& state, const std::string& where) override;

 private:
  std::vector<OptimizerGroup> groups_;
};

}  // namespace msplora
