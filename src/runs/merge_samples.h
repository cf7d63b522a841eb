#pragma once

#include <cstdint>
#include <vector>

#include "msplora/models/model.h"

namespace msplora {

/// Sequences of several lengths up to `longest` with random tokens, on which merged and unmerged logits are
/// compared.
std::vector<PackedInput> merge_samples(const ModelConfig& config, int64_t longest);

}  // namespace msplora
