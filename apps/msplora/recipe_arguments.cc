#include "recipe_arguments.h"

#include <string>

namespace msplora {

void add_recipe_arguments(CLI::App& command, RecipeArguments& arguments, bool writes) {
  command.add_option("recipe", arguments.file, "Recipe (YAML; docs/config.md lists the keys)")
      ->required()
      ->type_name("RECIPE.yaml");
  command
      .add_option(
          "--set", arguments.overrides,
          "Replace one value, e.g. --set train.lr=3e-4 --set adapter.target_modules=[query]; repeatable")
      ->type_name("KEY=VALUE")
      ->take_all()
      ->expected(1)
      ->allow_extra_args(false);
  command.add_option("--labels", arguments.labels, "data.labels: class names in the order of their numbers")
      ->type_name("NAME,NAME,...");
  if (writes)
    command.add_flag("--overwrite", arguments.overwrite, "Write into a run directory that is not empty");
}

RecipeChanges changes_of(const RecipeArguments& arguments, const CommonOptions& common) {
  return {arguments.overrides, split_names(arguments.labels), common.threads, common.device,
          arguments.overwrite};
}

}  // namespace msplora
