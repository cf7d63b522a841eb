#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

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
c10::intrusive_ptr<PackedLinear> frozen_product(const JointLinear& joint,
                                                const std::vector<const Linear*>& layers,
                                                const at::Tensor& x);
/// The biases of the layers one after the other, float32; undefined without any.
at::Tensor joint_bias(const std::vector<const Linear*>& layers);
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

 private:
  friend c10::intrusive_ptr<detail::PackedLinear> detail::frozen_product(const JointLinear&,
                                                                         const std::vector<const Linear*>&,
                                                                         const at::Tensor&);
  struct Kept;
  std::shared_ptr<Kept> kept_;  // the packed product, made on first use
};

}  // namespace msplora
