#pragma once

#include <CLI/App.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/core/option_io.h"
#include "msplora/train/recipe.h"
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

/// Lists the keys of the recipe behind the help of a command, from the declarations that read them.
template <class Options>
void add_recipe_help(CLI::App& command) {
  command.footer(
      [] { return "\nKeys of the recipe, with their defaults:\n" + options_to_text(describe(Options{})); });
}

/// Reads the file and the overrides into `options`, every problem into `errors`. Later ones win:
/// defaults < file < --set < --labels, --threads, --device, --overwrite.
template <class Options>
void read_recipe(const RecipeArguments& arguments, const CommonOptions& common, Options& options,
                 ErrorList& errors) {
  read_yaml(options, read_file(arguments.file), arguments.file, errors);
  for (const std::string& text : arguments.overrides) apply_override(options, text, errors);
  if (!arguments.labels.empty()) {
    if constexpr (requires { options.data.labels; }) {
      options.data.labels = split_names(arguments.labels);
    } else {
      errors.add("--labels", "this recipe has no classes", "leave it out");
    }
  }
  if (common.threads > 0) options.train.threads = common.threads;
  if (!common.device.empty()) options.train.device = common.device;
  if (arguments.overwrite) options.output.overwrite = true;
  // Options that exclude each other can be judged only when each of them is readable.
  if (errors.empty()) check_recipe(options, errors, arguments.file);
}

/// The same, all problems in one Error{kConfig}.
template <class Options>
Options load_recipe(const RecipeArguments& arguments, const CommonOptions& common) {
  Options options;
  ErrorList errors;
  read_recipe(arguments, common, options, errors);
  errors.throw_if_any(ErrorCode::kConfig, arguments.file);
  return options;
}

/// The directory of a run, locked while this lives: two processes would spoil each other's checkpoints.
/// Created at once, so that a wrong place is reported before anything is loaded; a run that is refused before
/// it wrote anything takes it away again.
class RunDirectory {
 public:
  /// Throws Error{kIo} when `path` exists and is not empty, unless `overwrite` or `resume`, and when another
  /// process still writes there a few seconds later.
  RunDirectory(std::filesystem::path path, bool overwrite, bool resume);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

 private:
  void lock();

  std::filesystem::path path_;
  bool existed_;
  int file_ = -1;  // the open directory; it holds the lock
};

}  // namespace msplora
