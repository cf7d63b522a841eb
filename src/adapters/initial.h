#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/nn/linear.h"

namespace msplora::detail {

/// Device and type of the trainable tensors beside a layer: float32, or float64 in a model of float64.
at::TensorOptions factor_options(const Site& site);

/// The tensor in the type that factors of a layer have: float32, or float64 for float64.
at::Tensor wide(const at::Tensor& tensor);

/// Uniform in (-bound, bound), a function of (seed, name) alone; float32 on the CPU.
at::Tensor draw_uniform(const std::vector<int64_t>& shape, double bound, uint64_t seed,
                        const std::string& name);

}  // namespace msplora::detail
