#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "msplora/gguf/types.h"

namespace msplora {

/// What quantise() makes blocks of: F32, F16, BF16 and Q8_0.
const std::vector<GgufType>& written_types();
bool is_written(GgufType type);

/// `count` float32 values, a multiple of the elements of a block, as blocks. F16 and BF16 round to nearest
/// even; Q8_0 takes the largest magnitude of a block as 127 and rounds halves away from zero, with ggml's
/// bits. Throws Error{kUsage} for a type that is not written, Error{kNumerics} for values that do not fit the
/// type.
void quantise(GgufType type, const float* values, int64_t count, std::byte* blocks);

/// The type that a row of so many elements is written in: `wanted`, or F16 where its blocks do not divide the
/// row.
GgufType fitting_type(GgufType wanted, int64_t row_elements);

/// Bytes of so many elements.
int64_t gguf_bytes(GgufType type, int64_t elements);

}  // namespace msplora
