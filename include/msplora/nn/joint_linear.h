#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "msplora/kernels/kernels.h"
#include "msplora/nn/context.h"
#include "msplora/nn/linear.h"

namespace msplora {

/// The output of an operation, and its input for whatever else reads it (a residual connection). Gradients of
/// `x` flow through the operation, which adds its own to them in place: no sum of two gradients is formed.
struct WithInput {
  at::Tensor y;
  at::Tensor x;
};

class JointLinear;

namespace detail {
/// The kept gated product of layers that are neither adapted nor trained, and the biases as it takes them; a
/// null product for others and where packing does not help.
struct FrozenGate {
  c10::intrusive_ptr<PackedLinear> product;
  at::Tensor bias;
};
FrozenGate frozen_gate(const JointLinear& joint, const std::vector<const Linear*>& layers,
                       const at::Tensor& x);
}  // namespace detail

/// Frozen linear layers with one input (query, key and value), as a single product with a single low-rank
/// update: the input is read once, and backward sums over the layers inside the product.
class JointLinear {
 public:
  JointLinear();

  /// x [T, in] -> y [T, Σ out], the layers' outputs side by side, as each layer's `forward` gives it up to
  /// rounding. Nothing where the layers need operations of their own: trained weights or biases, updates that
  /// are more than low-rank terms, dtypes or sizes without a packed product, biases in some layers only.
  std::optional<WithInput> forward(const at::Tensor& x, const std::vector<const Linear*>& layers,
                                   const ForwardContext& context) const;
  /// x -> y [T, width] = f(gate) * up of layers with the outputs gate and up, or of one layer that gives both
  /// side by side, whose halves must fill panels where it has an update.
  std::optional<WithInput> gated(const at::Tensor& x, const std::vector<const Linear*>& layers,
                                 kernels::Activation activation, const ForwardContext& context) const;

 private:
  friend detail::FrozenGate detail::frozen_gate(const JointLinear&, const std::vector<const Linear*>&,
                                                const at::Tensor&);
  std::optional<WithInput> run(const at::Tensor& x, const std::vector<const Linear*>& layers,
                               std::optional<kernels::Activation> gate, const ForwardContext& context) const;

  struct Kept;
  std::shared_ptr<Kept> kept_;  // the packed product, made on first use
};

}  // namespace msplora
