#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "msplora/kernels/kernels.h"

/// Differentiable functions over the kernels of decoders, under the rules of functional.h.
namespace msplora {

/// What a pre-norm block goes on with: the normed sum feeds the next layer, the sum is the residual stream.
struct NormedSum {
  at::Tensor normed;
  at::Tensor sum;  // x itself when there is no residual
};
/// sum = x + residual (may be undefined); normed = sum / sqrt(mean(sum²) + eps) * gamma. gamma:
/// [width], in float32 (float64 beside float64).
NormedSum residual_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& gamma,
                            double eps);

/// theta^(-2i / rotary_dim), i < rotary_dim / 2: how far each pair turns from one position to the next.
/// Throws Error{kUsage} when rotary_dim is not even or not above 0.
std::vector<double> rotary_frequencies(int64_t rotary_dim, double theta);

/// Cosines and sines of the angles position · frequency, times `factor`, [positions, rotary_dim / 2] each: in
/// float64 for a model that computes in float64, else in float32, frequencies and angles too, as Hugging Face
/// has them.
struct RotaryTable {
  at::Tensor cos, sin;
  int64_t rotary_dim = 0;
};
RotaryTable make_rotary_table(int64_t positions, const std::vector<double>& frequencies,
                              at::ScalarType compute_dtype, double factor = 1.0);

/// Positions 0, 1, 2, ... of each segment of a packed batch, int32 [T]. Throws Error{kUsage} where cu_seqlens
/// do not begin with 0 or fall.
at::Tensor segment_positions(const std::vector<int32_t>& cu_seqlens);

/// Turns the first `heads` heads, head_dim wide each, of every row of x [T, width] in place, and leaves what
/// follows them (the values of a joint product). Backward turns the gradient in place, too: nothing but x may
/// have got that array, as is so for gradients of attention. positions: int32 [T]. Throws
/// Error{kData} when a position is not in the table, Error{kUsage} when the heads are wider than x or
/// narrower than rotary_dim, x is not contiguous, or positions are not one for each row.
at::Tensor rotary_(at::Tensor x, const at::Tensor& positions, int64_t heads, int64_t head_dim,
                   const RotaryTable& table, kernels::RotaryPairs pairs = kernels::RotaryPairs::kHalves);

/// f(gate) * up, both of one shape (SwiGLU of f = silu, GeGLU of a GELU: Shazeer, 2020).
at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, kernels::Activation kind);
/// The same with gate and up side by side in one tensor.
at::Tensor gated_activation(const at::Tensor& gate_up, kernels::Activation kind);

}  // namespace msplora
