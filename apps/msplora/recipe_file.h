#pragma once

#include <CLI/App.hpp>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include "msplora/adapters/files.h"
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

/// What a run takes over from the adapter that it goes on from, beside the settings of the adapter itself:
/// the task and the classes in their order. Does nothing where the adapter does not say.
void take_task(const std::filesystem::path& adapter, TaskOptions& task, DataConfig& data);
/// Adds what the recipe says otherwise than the adapter it goes on from: `own` is a recipe of the adapter
/// alone, `wanted` the same with the recipe's values on top.
void check_start(const Recipe& wanted, const Recipe& own, ErrorList& errors);

/// Whether the run starts with the head of the adapter that it goes on from.
bool start_brings_head(const AdapterConfig& adapter);

/// With adapter.init_from: `fill` writes the recipe's values on top of what the adapter says.
template <class Options, class Fill>
void start_from_adapter(Options& options, const Fill& fill, ErrorList& errors) {
  if constexpr (std::is_base_of_v<Recipe, Options>) {
    if (options.adapter.init_from.empty() || !errors.empty()) return;
    Options own, started;
    try {
      own.adapter = settings_from(options.adapter.init_from);
      take_task(options.adapter.init_from, own.task, own.data);
    } catch (const Error& error) {
      return errors.add(error.where(), error.message(), error.hint());
    }
    started = own;
    fill(started, errors);
    check_start(started, own, errors);
    options = std::move(started);
  }
}

/// Reads the file and the overrides into `options`, every problem into `errors`. Later ones win:
/// defaults < file < --set < --labels, --threads, --device, --overwrite.
template <class Options>
void read_recipe(const RecipeArguments& arguments, const CommonOptions& common, Options& options,
                 ErrorList& errors) {
  const std::string text = read_file(arguments.file);
  const auto fill = [&](Options& to, ErrorList& problems) {
    read_yaml(to, text, arguments.file, problems);
    for (const std::string& assignment : arguments.overrides) apply_override(to, assignment, problems);
    if (arguments.labels.empty()) return;
    if constexpr (requires { to.data.labels; }) {
      to.data.labels = split_names(arguments.labels);
    } else {
      problems.add("--labels", "this recipe has no classes", "leave it out");
    }
  };
  fill(options, errors);
  start_from_adapter(options, fill, errors);
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
