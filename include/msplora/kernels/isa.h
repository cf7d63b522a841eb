#pragma once

#include <string>

#include "msplora/kernels/kernels.h"

namespace msplora::kernels {

/// The environment variable that names the instruction set to begin with, one of available_isas(): for tests,
/// and to compare machines. The first call of active_isa() reads it and throws as isa_named does; unset or
/// empty, the best one is taken.
inline constexpr const char* kIsaVariable = "MSPLORA_ISA";

/// By the name that to_string gives. Throws Error{kUsage} for names that this processor does not run.
Isa isa_named(const std::string& name);

}  // namespace msplora::kernels
