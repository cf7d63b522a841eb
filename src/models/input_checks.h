#pragma once

#include "msplora/models/architecture.h"
#include "msplora/nn/context.h"

namespace msplora {

/// Throws Error{kUsage} for members of a type, shape or count that no model takes, and Error{kData} for what
/// this one does not: ids that it does not know, and sequences without tokens or with too many.
void check_input(const PackedInput& input, const Architecture& architecture);

/// The rows that forward() gives of a language model.
int64_t output_row_count(const PackedInput& input);

}  // namespace msplora
