#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "msplora/kernels/kernels.h"
#include "msplora/nn/context.h"
#include "msplora/nn/joint_linear.h"
#include "msplora/nn/linear.h"

namespace msplora {

/// Rows that pass through both products of a feed-forward part together where our own products serve: of the
/// values between them no more are held at a time.
inline constexpr int64_t kFeedForwardRows = 4096;

/// down(f(up(x))), the feed-forward part of a transformer block; x [T, hidden] -> [T, hidden].
///
/// Where neither layer is adapted or trained, the rows pass through both in blocks, so that the wide values
/// between them stay in cache, and backward needs f'(up(x)) alone. Elsewhere it is the three operations one
/// after the other.
WithInput feed_forward(const at::Tensor& x, const Linear& up, const Linear& down,
                       kernels::Activation activation, const ForwardContext& context);

/// f(gate(x)) * up(x) (Shazeer, 2020). `layers` are gate and up, or one layer that gives both side by side;
/// `joint` keeps their product between passes.
WithInput gated(const at::Tensor& x, const JointLinear& joint, const std::vector<const Linear*>& layers,
                kernels::Activation activation, const ForwardContext& context);

/// down(f(gate(x)) * up(x)), the feed-forward part of a Llama block, with what lies between in cache as
/// above: backward needs the derivatives by gate and up alone, which are formed beside the sums.
WithInput gated_feed_forward(const at::Tensor& x, const JointLinear& joint,
                             const std::vector<const Linear*>& layers, const Linear& down,
                             kernels::Activation activation, const ForwardContext& context);

}  // namespace msplora
