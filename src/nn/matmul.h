#pragma once

#include <ATen/core/Tensor.h>

/// libtorch's products with sums in float32 or wider, whatever the processor: where oneDNN knows no bfloat16,
/// libtorch adds in bfloat16, and a sum of a few hundred terms is off by percents. Such products are formed
/// in float32 and rounded once. Differentiable.
namespace msplora::detail {

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b);

/// x Wᵀ + b; `bias` undefined: none.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

}  // namespace msplora::detail
