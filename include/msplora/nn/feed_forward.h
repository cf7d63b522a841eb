#pragma once

#include <ATen/core/Tensor.h>

#include "msplora/kernels/kernels.h"
#include "msplora/nn/context.h"
#include "msplora/nn/joint_linear.h"
#include "msplora/nn/linear.h"

namespace msplora {

/// down(f(up(x))), the feed-forward part of a transformer block; x [T, hidden] -> [T, hidden].
///
/// Where neither layer is adapted or trained, the rows pass through both in blocks, so that the wide values
/// between them stay in cache, and backward needs f'(up(x)) alone. Elsewhere it is the three operations one
/// after the other.
WithInput feed_forward(const at::Tensor& x, const Linear& up, const Linear& down,
                       kernels::Activation activation, const ForwardContext& context);

}  // namespace msplora
