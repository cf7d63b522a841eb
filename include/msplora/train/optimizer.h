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
  std::vector<NamedParameter> tensors;  // float32 or float64, contiguous; their grad() is read
};

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
};

/// AdamW (Loshchilov & Hutter, ICLR 2019, algorithm 2), number for number as torch.optim.AdamW. With t the
/// steps that this tensor has taken:
///   p <- p - lr wd p
///   m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g²
///   p <- p - lr / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
/// in one pass over memory for each tensor.
class AdamW : public OptimizerControl {
 public:
  /// Throws Error{kUsage} on another dtype, a layout that is not contiguous or a name given twice.
  AdamW(AdamWOptions options, std::vector<OptimizerGroup> groups);

  /// One step with every learning rate multiplied by `lr_factor` and every gradient by `gradient_scale`;
  /// tensors named in `lr_factors` have a further factor. Tensors without a gradient and those named in
  /// `frozen` are left alone: value, moments and step count.
  void step(double lr_factor, double gradient_scale = 1.0, const std::set<std::string>& frozen = {},
            const std::map<std::string, double>& lr_factors = {});

  /// Moments and step count of one tensor back to zero. Throws Error{kUsage} on an unknown name.
  void reset(const std::string& name) override;

  /// Drops every gradient, so that the next backward pass writes instead of adding.
  void zero_grad();

  const std::vector<OptimizerGroup>& groups() const { return groups_; }

  /// "NAME.exp_avg", "NAME.exp_avg_sq" (aliasing the optimizer's own) and "NAME.step" (int64, one element) of
  /// every tensor.
  std::vector<NamedTensor> state() const;
  /// Takes over a state. Throws Error{kModel} listing every missing, unexpected and mis-shaped entry.
  void load_state(const std::vector<NamedTensor>& state, const std::string& where);

  /// Bytes of the moments.
  int64_t state_bytes() const;

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

}  // namespace msplora
