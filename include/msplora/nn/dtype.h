#pragma once

#include <c10/core/ScalarType.h>

#include <string>

namespace msplora {

/// The usual name of a type, as recipes and safetensors' readers spell it: "float32", "bfloat16", "int64".
std::string dtype_name(at::ScalarType dtype);

}  // namespace msplora
