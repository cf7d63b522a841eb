#include "runs/layer_ranks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <vector>

#include "msplora/adapters/gelora.h"
#include "msplora/runs/recipe_file.h"
#include "msplora/runs/run_directory.h"
#include "msplora/tasks/intrinsic_dimension.h"

namespace msplora {
namespace {

std::vector<int64_t> recorded_ranks(const std::filesystem::path& file) {
  std::error_code code;
  if (!std::filesystem::exists(file, code)) return {};
  return recorded_recipe(file).adapter.own<GeLoraOptions>().layer_ranks;
}

}  // namespace

void forget_settled_ranks(Recipe& recorded, const Recipe& wanted) {
  if (wanted.adapter.own<GeLoraOptions>().layer_ranks.empty())
    recorded.adapter.own<GeLoraOptions>().layer_ranks.clear();
}

LayerRanks settle_layer_ranks(Recipe& recipe, Model& model, const Examples& train, bool resume) {
  LayerRanks found;
  if (recipe.adapter.method != "gelora") return found;
  GeLoraOptions& options = recipe.adapter.own<GeLoraOptions>();
  if (!options.layer_ranks.empty()) {
    found.text = fmt::format("{}, as given", fmt::join(options.layer_ranks, " "));
    return found;
  }
  if (resume) options.layer_ranks = recorded_ranks(std::filesystem::path(recipe.output.dir) / kRecipeFile);
  if (!options.layer_ranks.empty()) {
    found.text = fmt::format("{}, of the run that is resumed", fmt::join(options.layer_ranks, " "));
    return found;
  }
  const DimensionProfile profile =
      dimension_profile(model, train, options, static_cast<uint64_t>(recipe.train.seed));
  options.layer_ranks = gelora_ranks(profile.dimensions, options);
  found.seconds = profile.seconds;
  found.text = fmt::format("{}, from intrinsic dimensions {:.1f} ({} examples, {:.1f} s)",
                           fmt::join(options.layer_ranks, " "), fmt::join(profile.dimensions, " "),
                           profile.examples, profile.seconds);
  return found;
}

}  // namespace msplora
