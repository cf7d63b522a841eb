#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "msplora/kernels/kernels.h"
#include "msplora/nn/context.h"

/// Differentiable functions over the kernels. Tensors are contiguous, on the CPU, in float32, bfloat16 or
/// float64; hidden states are [T, width]. They have first derivatives alone: where the kernels run, a
/// backward pass with create_graph throws Error{kUsage}; compositions on other devices can be differentiated
/// again.
namespace msplora {

/// A dropout mask for `p` at the place `stream`; inactive outside training.
kernels::DropoutMask dropout_mask(const ForwardContext& context, double p, uint64_t stream);

at::Tensor dropout(const at::Tensor& x, const kernels::DropoutMask& mask);

/// layer_norm(dropout(x) + residual) * gamma + beta; residual may be undefined. gamma and beta:
/// [width], in float32 (float64 beside float64).
at::Tensor residual_layer_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& gamma,
                               const at::Tensor& beta, double eps, const kernels::DropoutMask& mask);

/// Throws Error{kConfig} with the known names when `name` (Hugging Face's hidden_act) is unknown.
kernels::Activation activation_from_name(const std::string& name);
at::Tensor activation(const at::Tensor& x, kernels::Activation kind);

/// Rows of a table [n, width], chosen by int64 ids [T]; row 0 for every token where ids are undefined.
struct Embedding {
  at::Tensor table, ids;
};
/// The sum of up to three embeddings, the first of which has ids, as `dtype` [T, width]. Gradients flow to
/// tables that are trained. Throws Error{kUsage} for ids of another type or count.
at::Tensor embedding_sum(const std::vector<Embedding>& parts, at::ScalarType dtype);

/// Gaussian noise on the weight of one product: row i has the standard deviation deviations[i]. Drawn in
/// forward and again in backward (kernels::RowNoise); nothing of the weight's size is kept.
struct WeightNoise {
  uint64_t key = 0;
  at::Tensor deviations;  // float32 [out]; undefined: no noise
};
/// y = x Wᵀ + b + Σ_slices dropout_slice(x) down_sliceᵀ up_sliceᵀ, hand-written backward.
/// With noise, W is the noisy weight, in x's dtype; the deviations are constants to autograd.
/// weight [out, in], bias [out] or undefined; down [R, in] and up [out, R] with scalings folded into `up`, or
/// undefined; slices as kernels::LowRank takes them. Parameters of another dtype than x are converted, and
/// their gradients come back in their own dtype.
at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const at::Tensor& down, const at::Tensor& up,
                          std::vector<kernels::LowRankSlice> slices, const WeightNoise& noise = {});

/// Σ over rows whose label is not kIgnoredLabel of -log softmax(logits)[label], a float32 (float64) scalar.
/// logits [N, classes], labels int64 [N]. Throws Error{kUsage} for labels of another type or count,
/// Error{kData} when one is out of range.
at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& labels);

/// Σ (prediction - target)². predictions [N] or [N, 1], targets [N]. Throws Error{kUsage} where their counts
/// differ.
at::Tensor squared_error_sum(const at::Tensor& predictions, const at::Tensor& targets);

}  // namespace msplora
