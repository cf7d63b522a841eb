#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace msplora {

/// While one lives, the models of this thread keep the input of each block alone in training forward passes,
/// and run the block again in the backward pass (train.checkpoint_activations).
class CheckpointActivations {
 public:
  explicit CheckpointActivations(bool on);
  ~CheckpointActivations();
  CheckpointActivations(const CheckpointActivations&) = delete;
  CheckpointActivations& operator=(const CheckpointActivations&) = delete;

  static bool is_on();

 private:
  bool before_;
};

/// Whether this thread runs a part for the second time, where nothing may be counted twice.
bool is_recomputing();

/// Part of a model, from some tensors to some tensors. Called once in the forward pass and once in each
/// backward pass; all calls must compute the same bits (dropout masks that are functions of the step do).
/// Tensors that it captures may require gradients.
using RecomputedPart = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs)>;

/// part(inputs), without keeping what its backward pass needs: only the inputs are kept, and the part runs
/// again, one forward pass dearer (Chen et al. 2016, "Training deep nets with sublinear memory cost").
///
/// Gradients flow to the inputs and to every leaf that the part captured; inputs need not require one. Each
/// gradient is formed by the same operations as without, and contributions of several parts to one leaf are
/// added in the same order, so the bits are the same; only where one part uses a leaf more than once are
/// those uses added up first. Gradients of gradients are refused with Error{kUsage}.
std::vector<at::Tensor> recompute_in_backward(const std::vector<at::Tensor>& inputs, RecomputedPart part);

/// The same for a part with one input and one output.
at::Tensor recompute_in_backward(const at::Tensor& x, std::function<at::Tensor(const at::Tensor& x)> part);

}  // namespace msplora
