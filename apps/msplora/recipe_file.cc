#include "recipe_file.h"

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
  if (writes)
    command.add_flag("--overwrite", arguments.overwrite, "Write into a run directory that is not empty");
}

void prepare_run_directory(const std::filesystem::path& directory, bool overwrite, bool resume) {
  try {
    prepare_output_directory(directory, overwrite || resume);
  } catch (const Error& error) {
    if (error.message().find("not empty") == std::string::npos) throw;
    throw Error(
        error.code(), directory.string(), error.message(),
        "choose another output.dir, or pass --resume to continue that run or --overwrite to replace it");
  }
}

}  // namespace msplora
