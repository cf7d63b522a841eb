#pragma once

#include "msplora/data/examples.h"
#include "msplora/models/model.h"
#include "msplora/runs/run.h"

namespace msplora {

/// Fills adapter.gelora.layer_ranks of a recipe for GeLoRA that does not give them: from recipe.yaml of the
/// run that is resumed, else estimated from the training examples.
LayerRanks settle_layer_ranks(Recipe& recipe, Model& model, const Examples& train, bool resume);

/// Takes the ranks out of a recorded recipe that its run settled by itself, since `wanted` gives none.
void forget_settled_ranks(Recipe& recorded, const Recipe& wanted);

}  // namespace msplora
