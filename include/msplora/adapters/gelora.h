#pragma once

#include <cstdint>
#include <vector>

#include "msplora/adapters/method_options.h"

namespace msplora {

/// GeLoRA's rule (arXiv 2412.09250): r_b = max(d_b - d_{b-1}, 0) + 1 for block b = 1..L, where d_0 is the
/// intrinsic dimension of the embeddings' output and d_b that of block b's output; rounded and bounded as the
/// options say. Returns L ranks for L + 1 dimensions. Throws Error{kNumerics} when a dimension is not finite.
std::vector<int64_t> gelora_ranks(const std::vector<double>& dimensions, const GeLoraOptions& options);

}  // namespace msplora
