#pragma once

#include <string>
#include <vector>

#include "msplora/kernels/kernels.h"

/// What is known of packed products beside their kernels.
namespace msplora::kernels {

/// Whether products of `isa` run on matrix units.
bool has_matrix_units(Isa isa);

/// Elements that W takes when packed for `isa`.
template <typename T>
int64_t packed_gemm_elements(Isa isa, int64_t inner, int64_t width, Precision precision = Precision::kExact);

/// `width` rounded up to whole panels of a matrix that is packed for `isa`.
template <typename T>
int64_t whole_panels(Isa isa, int64_t width, Precision precision = Precision::kExact);

/// How products of floats are formed from now on (train.matmul_precision) that the calling thread asks for,
/// and those threads that never set it: of matrices that are packed, in attention and of low rank; at first
/// kExact. Of `isa` kExact remains where it has no matrix units.
void set_matmul_precision(Precision precision);
Precision matmul_precision(Isa isa);
/// The names of precisions: exact, high, medium. Throws Error{kUsage} for others.
std::vector<std::string> precision_names();
Precision precision_named(const std::string& name);

/// Whether a matrix that is multiplied in both directions is packed for each: matrix units are done with a
/// panel before another that is turned would be ready. Else one copy serves both (PackedGemm::is_transposed).
template <typename T>
bool packs_both_directions(Isa isa, Precision precision = Precision::kExact);

/// Whether these products are the best choice on this processor: not without SIMD units that they know, and
/// not for Bfloat16 where the processor has matrix units (AMX) and a lower instruction set is active: oneDNN
/// uses the units.
template <typename T>
bool prefers_packed_gemm();

/// Multiplies what lies in registers, `rounds` times a dozen or two of them, on the calling thread, with the
/// instruction that products of this type have in `isa`; the operations that it did (two a product). What no
/// product can exceed.
template <typename T>
int64_t multiply_registers(Isa isa, int64_t rounds);

}  // namespace msplora::kernels
