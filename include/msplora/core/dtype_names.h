#pragma once

#include <string>

namespace msplora {

/// `float32`, `bfloat16`, `float16` or `float64` for the other names that people type (fp32, float, f32,
/// bf16, half, fp16, f16, double, fp64, torch.bfloat16, in any case); other text as it is.
std::string usual_dtype_name(const std::string& name);

}  // namespace msplora
