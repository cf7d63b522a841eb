#pragma once

#include <optional>
#include <string>
#include <vector>

#include "msplora/data/examples.h"
#include "msplora/models/model.h"
#include "msplora/train/recipe.h"
#include "program.h"

namespace msplora {

/// Where the ranks of a run came from.
struct LayerRanks {
  std::string text;               // for the panel; empty when the method needs no such ranks
  std::optional<double> seconds;  // spent on estimating them
};

/// Fills adapter.gelora.layer_ranks of a recipe for GeLoRA that does not give them: from recipe.yaml of the
/// run that is resumed, else estimated from the training examples.
LayerRanks settle_layer_ranks(Recipe& recipe, Model& model, const Examples& train, bool resume);

/// Reads model and data of the recipe and prints the intrinsic dimension behind every layer, with the ranks
/// that `train` would use.
void print_dimension_profile(const std::string& recipe_file, const CommonOptions& common);

}  // namespace msplora
