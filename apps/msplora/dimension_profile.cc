#include "dimension_profile.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iostream>
#include <string>
#include <vector>

#include "msplora/adapters/gelora.h"
#include "msplora/runs/model_files.h"
#include "msplora/runs/run_data.h"
#include "msplora/tasks/intrinsic_dimension.h"
#include "msplora/train/runtime.h"
#include "recipe_arguments.h"

namespace msplora {

void print_dimension_profile(const std::string& recipe_file, const CommonOptions& common) {
  const auto recipe = load_recipe<Recipe>(recipe_file, changes_of({}, common));
  use_threads(recipe.train.threads);
  const ModelConfig config = load_supported_config(recipe.model.path);
  const auto tokenizer = load_tokenizer(recipe.model.path, config);
  const RunData data = read_run_data(recipe, config, tokenizer);
  const auto model = open_model(
      recipe.model, config,
      load_options(recipe.model, recipe.train, data.kind->head, data.task->num_outputs()), nullptr);
  const GeLoraOptions& gelora = recipe.adapter.own<GeLoraOptions>();
  const DimensionProfile profile =
      dimension_profile(*model, data.train.all(), gelora, static_cast<uint64_t>(recipe.train.seed));
  const std::vector<int64_t> ranks = gelora_ranks(profile.dimensions, gelora);
  if (common.json) {
    return print_json({{"model", recipe.model.path},
                       {"examples", profile.examples},
                       {"seconds", profile.seconds},
                       {"intrinsic_dimensions", profile.dimensions},
                       {"layer_ranks", ranks}});
  }
  TextTable table({"hidden states", "intrinsic dimension", "rank"}, {false, true, true});
  for (size_t i = 0; i < profile.dimensions.size(); ++i) {
    table.add({i == 0 ? "embeddings" : fmt::format("layer {}", i - 1),
               fmt::format("{:.3f}", profile.dimensions[i]), i == 0 ? "" : std::to_string(ranks[i - 1])});
  }
  std::cout << fmt::format("{}: TwoNN ({}) on {} of {} training examples, {} of the tokens, {:.1f} s\n\n",
                           recipe.model.path, gelora.estimator, profile.examples, data.train.examples.size(),
                           gelora.pooling, profile.seconds)
            << table.text("  ")
            << fmt::format("\nadapter.gelora.layer_ranks: [{}]\n", fmt::join(ranks, ", "));
}

}  // namespace msplora
