#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "msplora/kernels/kernels.h"
#include "msplora/nn/attention.h"
#include "msplora/nn/composed.h"
#include "msplora/nn/decoder_functional.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/linear.h"

/// The functions of functional.h, attention.h, decoder_functional.h, linear_cross_entropy.h and linear.h as
/// compositions of libtorch's operations, which differentiate themselves. Arguments and results are those of
/// the functions they stand for.
///
/// Reductions run in float32; products with the factors of an adapter run in the type of the activations, as
/// under PyTorch's autocast. Masks are functions of their key alone: on the CPU those of the kernels, on a
/// CUDA device those of its own generator.
namespace msplora::detail::composed {

at::Tensor dropout(const at::Tensor& x, const kernels::DropoutMask& mask);

at::Tensor residual_layer_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& gamma,
                               const at::Tensor& beta, double eps, const kernels::DropoutMask& mask);
NormedSum residual_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& gamma,
                            double eps);

at::Tensor activation(const at::Tensor& x, kernels::Activation kind);
at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, kernels::Activation kind);

/// Segments are padded to the longest of the batch here, and here alone.
at::Tensor attention(const AttentionInput& input, const AttentionCall& call);

/// Not in place.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, int64_t heads, int64_t head_dim,
                  const RotaryTable& table, kernels::RotaryPairs pairs);

at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const at::Tensor& down, const at::Tensor& up,
                          const std::vector<kernels::LowRankSlice>& slices, const WeightNoise& noise);

/// Σ of cross entropies of logits under a soft cap (0: none), in float32 (float64); every row has a label.
at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& labels, double soft_cap);
/// Of rows that all have a label. Chunks of logits are computed again in the backward pass.
at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                                    const at::Tensor& bias, const at::Tensor& labels, int64_t chunk_rows,
                                    double soft_cap);

}  // namespace msplora::detail::composed
