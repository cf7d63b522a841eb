#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "msplora/kernels/decoder.h"
#include "msplora/nn/linear.h"

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

/// Cosines and sines of the angles position · frequency, [positions, rotary_dim / 2] each: in float64 for a
/// model that computes in float64, else in float32, frequencies and angles too, as Hugging Face has them.
struct RotaryTable {
  at::Tensor cos, sin;
  int64_t rotary_dim = 0;
};
RotaryTable make_rotary_table(int64_t positions, const std::vector<double>& frequencies,
                              at::ScalarType compute_dtype);

/// Positions 0, 1, 2, ... of each segment of a packed batch, int32 [T].
at::Tensor segment_positions(const std::vector<int32_t>& cu_seqlens);

/// Turns the first `heads` heads, head_dim wide each, of every row of x [T, width] in place, and leaves what
/// follows them (the values of a joint product). Backward turns the gradient in place, too: nothing but x may
/// have got that array, as is so for gradients of segment_attention. positions: int32 [T]. Throws
/// Error{kData} when a position is not in the table, Error{kUsage} when the heads are wider than x or
/// narrower than rotary_dim, or x is not contiguous.
at::Tensor rotary_(at::Tensor x, const at::Tensor& positions, int64_t heads, int64_t head_dim,
                   const RotaryTable& table, kernels::RotaryPairs pairs = kernels::RotaryPairs::kHalves);

/// silu(gate) * up, both of one shape.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
/// The same with gate and up side by side in one tensor, as their joint product leaves them.
at::Tensor swiglu(const at::Tensor& gate_up);

/// Σ over rows whose label is not kIgnoredLabel of -log softmax(hidden Wᵀ + b)[label]: the output head and
/// the loss of a language model in one, a float32 (float64) scalar.
///
/// hidden [N, d], weight [classes, d], bias [classes] or undefined, labels int64 [N]. Ignored rows are left
/// out before the head. The head runs in chunks of `chunk_rows` rows (0: as many as make a chunk of logits
/// about as large as `hidden`, at least 128), whose gradients are formed at once: [N, classes] never exists.
/// Gradients flow to hidden, and to weight and bias where they are trained. Throws Error{kData} when a label
/// is out of range.
at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                                    const at::Tensor& bias, const at::Tensor& labels, int64_t chunk_rows = 0);
/// The same with a layer without an update; where it is frozen, its packed product is used.
at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const Linear& head, const at::Tensor& labels,
                                    int64_t chunk_rows = 0);

}  // namespace msplora
