#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "msplora/adapters/files.h"
#include "msplora/core/file.h"
#include "msplora/core/option_io.h"
#include "msplora/runs/adapter_place.h"
#include "msplora/train/recipe.h"

namespace msplora {

/// What replaces values of a recipe file, in this order: the defaults, the file, `overrides`, then the
/// others. Where `overrides` choose another adapter.method than the file, options of the file that this
/// method has no use for go back to their defaults, which a line of the log names; those of `overrides` are
/// judged as ever.
struct RecipeChanges {
  std::vector<std::string> overrides = {};  // "train.lr=3e-4"
  std::vector<std::string> labels = {};     // data.labels
  int64_t threads = 0;                      // train.threads
  std::string device = {};                  // train.device
  bool overwrite = false;                   // output.overwrite
};

/// What a run takes over from the adapter that it goes on from, beside the settings of the adapter itself:
/// the task and the classes in their order. Does nothing where the adapter does not say.
void take_task(const std::filesystem::path& adapter, TaskOptions& task, DataConfig& data);
/// Adds what the recipe says otherwise than the adapter it goes on from: `own` is a recipe of the adapter
/// alone, `wanted` the same with the recipe's values on top.
void check_start(const Recipe& wanted, const Recipe& own, ErrorList& errors);
/// Files and directories that the data are read from.
std::vector<std::filesystem::path> files_of(const DataConfig& data);
std::vector<std::filesystem::path> files_of(const PretrainDataConfig& data);
/// Adds an error where a run in `output` could write over one of `inputs`, which it reads, or over its
/// recipe file, unless a run has written that.
void check_place(const std::filesystem::path& output, const std::filesystem::path& recipe,
                 const std::vector<std::filesystem::path>& inputs, ErrorList& errors);
/// Whether the run starts with the head of the adapter that it goes on from.
bool start_brings_head(const AdapterConfig& adapter);

/// For overrides that choose another method: what that has no use for in `adapter`, the options of a file,
/// goes back to its default (config_for_method). Returns the keys of these options. The overrides are still
/// to be applied.
std::vector<std::string> make_room_for_method(AdapterConfig& adapter,
                                              const std::vector<std::string>& overrides);
/// A line about it, unless there are none.
void note_left_out(const std::vector<std::string>& keys, const std::string& method,
                   const std::filesystem::path& file);

/// The tree of a recipe's file; bad YAML is added to `errors` and gives an empty one.
OptionNode parse_recipe(const std::filesystem::path& file, ErrorList& errors);
std::string command_of_recipe(const OptionNode& recipe);

/// The command whose section stands at the top of a recipe, "compare" or "federate"; "" for a recipe of
/// `train` or `pretrain`, and for what cannot be read.
std::string command_of_recipe(const std::filesystem::path& file);

/// The task.type of a recipe that a run wrote; "" where it has none or cannot be read.
std::string task_of_recipe(const std::filesystem::path& file);

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

/// Reads a file and the changes to it into `options`, every problem into `errors`.
template <class Options>
void read_recipe(const std::filesystem::path& file, const RecipeChanges& changes, Options& options,
                 ErrorList& errors) {
  const OptionNode recipe = parse_recipe(file, errors);
  if constexpr (std::is_same_v<Options, Recipe>) {
    if (const std::string command = command_of_recipe(recipe); !command.empty())
      return errors.add(file.string(), "is a recipe of `" + command + "`",
                        "msplora " + command + " " + file.string());
  }
  constexpr bool has_one_method = std::is_base_of_v<Recipe, Options> && !requires {
    options.compare;
  };
  std::vector<std::string> left_out;
  const auto fill = [&](Options& to, ErrorList& problems) {
    read_options(to, recipe, problems);
    if constexpr (has_one_method) left_out = make_room_for_method(to.adapter, changes.overrides);
    for (const std::string& assignment : changes.overrides) apply_override(to, assignment, problems);
    if constexpr (std::is_base_of_v<Recipe, Options>) {
      if (std::string& start = to.adapter.init_from; !start.empty())
        start = find_adapter(start).adapter.string();
    }
    if (changes.labels.empty()) return;
    if constexpr (requires { to.data.labels; }) {
      to.data.labels = changes.labels;
    } else {
      problems.add("--labels", "this recipe has no classes", "leave it out");
    }
  };
  fill(options, errors);
  start_from_adapter(options, fill, errors);
  if constexpr (has_one_method) note_left_out(left_out, options.adapter.method, file);
  if (changes.threads > 0) options.train.threads = changes.threads;
  if (!changes.device.empty()) options.train.device = changes.device;
  if (changes.overwrite) options.output.overwrite = true;
  std::vector<std::filesystem::path> inputs = files_of(options.data);
  inputs.emplace_back(options.model.path);
  if constexpr (std::is_base_of_v<Recipe, Options>) inputs.emplace_back(options.adapter.init_from);
  check_place(options.output.dir, file, inputs, errors);
  // Options that exclude each other can be judged only when each of them is readable.
  if (errors.empty()) check_recipe(options, errors, file.string());
}

/// The same, all problems in one Error{kConfig}.
template <class Options = Recipe>
Options load_recipe(const std::filesystem::path& file, const RecipeChanges& changes = {}) {
  Options options;
  ErrorList errors;
  read_recipe(file, changes, options, errors);
  errors.throw_if_any(ErrorCode::kConfig, file.string());
  return options;
}

/// The recipe.yaml that a run wrote, as it is. Throws Error{kConfig} where it cannot be read.
Recipe recorded_recipe(const std::filesystem::path& file);

}  // namespace msplora
