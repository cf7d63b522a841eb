#include "layer_ranks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iostream>

#include "msplora/adapters/gelora.h"
#include "msplora/tasks/intrinsic_dimension.h"
#include "msplora/train/runtime.h"
#include "recipe_file.h"
#include "session.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

std::vector<int64_t> recorded_ranks(const fs::path& run) {
  const fs::path file = run / "recipe.yaml";
  std::error_code code;
  if (!fs::exists(file, code)) return {};
  Recipe recipe;
  ErrorList errors;
  read_yaml(recipe, read_file(file), file.string(), errors);
  errors.throw_if_any(ErrorCode::kConfig, file.string());
  return recipe.adapter.own<GeLoraOptions>().layer_ranks;
}

}  // namespace

LayerRanks settle_layer_ranks(Recipe& recipe, Model& model, const Examples& train, bool resume) {
  LayerRanks found;
  if (recipe.adapter.method != "gelora") return found;
  GeLoraOptions& options = recipe.adapter.own<GeLoraOptions>();
  if (!options.layer_ranks.empty()) {
    found.text = fmt::format("{}, as given", fmt::join(options.layer_ranks, " "));
    return found;
  }
  if (resume) options.layer_ranks = recorded_ranks(recipe.output.dir);
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

void print_dimension_profile(const std::string& recipe_file, const CommonOptions& common) {
  RecipeArguments arguments;
  arguments.file = recipe_file;
  const Recipe recipe = load_recipe<Recipe>(arguments, common);
  use_threads(recipe.train.threads);
  const ModelConfig config = load_supported_config(recipe.model.path);
  const auto tokenizer = load_tokenizer(recipe.model.path, config);
  const PreparedData data = prepare_data(recipe, config, tokenizer);
  const auto model = open_classifier(recipe, config, data.task->num_outputs(), nullptr);
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
