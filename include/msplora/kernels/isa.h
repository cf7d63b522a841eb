#pragma once

#include <string>
#include <vector>

namespace msplora::kernels {

/// Instruction sets that the SIMD sources are built for.
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };
/// The best one that this processor runs, or what set_isa chose.
Isa active_isa();
/// Chooses a lower instruction set (tests, benchmarks). Throws Error{kUsage} when the processor lacks it.
void set_isa(Isa isa);
std::vector<Isa> available_isas();
std::string to_string(Isa isa);

/// The environment variable that names the instruction set to begin with, one of available_isas(): for tests,
/// and to compare machines. The first call of active_isa() reads it and throws as isa_named does; unset or
/// empty, the best one is taken.
inline constexpr const char* kIsaVariable = "MSPLORA_ISA";

/// By the name that to_string gives. Throws Error{kUsage} for names that this processor does not run.
Isa isa_named(const std::string& name);

}  // namespace msplora::kernels
