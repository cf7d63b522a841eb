#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/nn/weight.h"

namespace msplora {

struct AdapterTarget;

/// Identifies a base model by its weights: a hash of names, shapes and up to 64 evenly spaced values of every
/// floating-point parameter outside `head_modules`. Values are rounded to bfloat16 first, so that a model
/// loaded in float32 and in bfloat16 has one fingerprint. Take it before training (biases may be trained in
/// place). Never 0.
uint64_t fingerprint(const std::vector<Parameter>& parameters, const std::vector<std::string>& head_modules);

/// Of the base of a run that may be resumed: of its weights and of what it computes with. 0 where they are
/// not known.
uint64_t run_fingerprint(const AdapterTarget& target);

}  // namespace msplora
