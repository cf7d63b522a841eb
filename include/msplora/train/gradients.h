#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "msplora/nn/named_tensor.h"

namespace msplora {

/// The sum of squares of a float32 or float64 tensor, in double and in a fixed order, so that the thread
/// count does not change it. Not finite when an element is not.
double sum_of_squares(const at::Tensor& tensor);

/// What torch.nn.utils.clip_grad_norm_ multiplies gradients of this global norm by: max_norm / (norm + 1e-6),
/// at most 1. `max_norm` 0 means no clipping.
double clip_factor(double norm, double max_norm);

/// The gradients of one step.
struct GradientReport {
  double norm = 0.0;                    // global 2-norm over the tensors that are not frozen
  std::vector<std::string> not_finite;  // tensors whose gradient has an infinity or NaN
};

/// Measures gradients and finds trainable tensors that are not connected to the loss.
///
/// The first step of a low-rank pair has a zero gradient for the factor beside the zero one, and with a
/// warm-up the first update has the learning rate 0. So a tensor is judged only after it took part in
/// kProbation steps that followed an update with a learning rate above 0: if its gradient was absent in all
/// steps until then, it is dead. One that is there and zero has kZeroProbation steps: the gradient of a shift
/// that a norm behind it takes out is zero but for rounding.
class GradientWatch {
 public:
  static constexpr int kProbation = 2, kZeroProbation = 10;

  explicit GradientWatch(std::vector<NamedTensor> tensors);

  /// Looks at the gradients before the optimizer step. `lr_factor` is the one of the coming update.
  /// Throws Error{kConfig} naming the dead tensors; Error{kNumerics} where they are dead because training has
  /// `exploded` (the caller judges by the loss), because the squares of gradients are beyond float32, or
  /// because gradients that were there have become exactly 0: numbers in the model overflow or vanish.
  GradientReport examine(const std::set<std::string>& frozen, double lr_factor, bool exploded = false);

 private:
  struct Entry {
    NamedTensor parameter;
    bool alive = false;
    int updates = 0;   // with a learning rate above 0
    int misses = 0;    // steps with an absent or zero gradient after the first such update
    int absences = 0;  // those with an absent one
  };
  std::vector<Entry> entries_;
};

}  // namespace msplora
