#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

#include "msplora/runs/recipe_file.h"
#include "program.h"

namespace msplora {

/// A recipe on the command line: the file and what replaces its values.
struct RecipeArguments {
  std::string file;
  std::vector<std::string> overrides;  // of --set, in order
  std::string labels;                  // of --labels: data.labels by a shorter name
  bool overwrite = false;
};

/// Adds RECIPE and --set; with `writes` also --overwrite.
void add_recipe_arguments(CLI::App& command, RecipeArguments& arguments, bool writes);

/// The same with the options that every command has.
RecipeChanges changes_of(const RecipeArguments& arguments, const CommonOptions& common);

/// Lists the keys of the recipe behind the help of a command, from the declarations that read them.
template <class Options>
void add_recipe_help(CLI::App& command) {
  command.footer(
      [] { return "\nKeys of the recipe, with their defaults:\n" + options_to_text(describe(Options{})); });
}

}  // namespace msplora
