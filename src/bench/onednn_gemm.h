#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "msplora/bench/gemm.h"

namespace msplora::detail {

/// The product by oneDNN with the weight packed ahead, or null in a build without oneDNN or for a dtype it
/// does not multiply. x [rows, in] and weight [out, in] must stay as they are; y [rows, out] gets the result.
std::unique_ptr<GemmVariant> onednn_packed_gemm(const at::Tensor& x, const at::Tensor& weight,
                                                const at::Tensor& y);

}  // namespace msplora::detail
