#pragma once

#include "msplora/core/error.h"
#include "msplora/train/recipe.h"
#include "session.h"

namespace msplora {

/// What `train` refuses before its first step and neither the text of the recipe nor the reading of its data
/// shows: the device, the metric, what needs validation data, the number of steps. `validate` and every
/// command that trains call it, so that they agree; nothing is written before it passes.
void check_run(const Recipe& recipe, const PreparedData& data, ErrorList& errors);

}  // namespace msplora
