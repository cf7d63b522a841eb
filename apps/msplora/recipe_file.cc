#include "recipe_file.h"

#include <filesystem>
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
  if (writes)
    command.add_flag("--overwrite", arguments.overwrite, "Write into a run directory that is not empty");
}

RunDirectory::RunDirectory(std::filesystem::path path, bool overwrite, bool resume)
    : path_(std::move(path)), existed_(std::filesystem::exists(path_)) {
  try {
    prepare_output_directory(path_, overwrite || resume);
  } catch (const Error& error) {
    if (error.message().find("not empty") == std::string::npos) throw;
    throw Error(
        error.code(), path_.string(), error.message(),
        "choose another output.dir, or pass --resume to continue that run or --overwrite to replace it");
  }
}

RunDirectory::~RunDirectory() {
  // Fails, as it should, when the directory is not empty.
  std::error_code ignored;
  if (!existed_) std::filesystem::remove(path_, ignored);
}

}  // namespace msplora
