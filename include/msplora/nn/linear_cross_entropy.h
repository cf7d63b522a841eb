#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "msplora/nn/context.h"
#include "msplora/nn/linear.h"

namespace msplora {

/// Rows of logits that linear_cross_entropy_sum forms at a time unless told otherwise: a power of two of at
/// least 128 (512 where products of `dtype` run on matrix units) for which they are about as many values as
/// `hidden` [rows, width].
int64_t default_logit_rows(int64_t rows, int64_t width, int64_t classes, at::ScalarType dtype);

/// Σ over rows whose label is not kIgnoredLabel of -log softmax(hidden Wᵀ + b)[label]: the output head and
/// the loss of a language model in one, a float32 (float64) scalar.
///
/// hidden [N, d], weight [classes, d], bias [classes] or undefined, labels int64 [N]. Ignored rows are left
/// out before the head. The head runs in chunks of `chunk_rows` rows (0: default_logit_rows), whose gradients
/// are formed at once: [N, classes] never exists. With a soft_cap above 0, logits z become cap tanh(z / cap)
/// first. Gradients flow to hidden, and to weight and bias where they are trained; they have no gradients
/// (see functional.h). Throws Error{kUsage} for labels of another type or count, Error{kData} when one is out
/// of range.
at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                                    const at::Tensor& bias, const at::Tensor& labels, int64_t chunk_rows = 0,
                                    double soft_cap = 0.0);
/// The same with a layer. Where it is frozen, its packed product is used. Where it has an update, gradients
/// flow to the leaves that the update is computed from as well, and are formed chunk by chunk too; dropout
/// draws other masks in each chunk.
at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const Linear& head, const at::Tensor& labels,
                                    const ForwardContext& context, int64_t chunk_rows = 0,
                                    double soft_cap = 0.0);

}  // namespace msplora
