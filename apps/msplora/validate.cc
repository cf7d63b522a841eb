#include <fmt/format.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>

#include "federated_data.h"
#include "msplora/adapters/adapter.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/planning.h"
#include "msplora/data/reader.h"
#include "msplora/io/safetensors.h"
#include "msplora/train/compare.h"
#include "panel.h"
#include "program.h"
#include "recipe_file.h"
#include "run_check.h"
#include "session.h"

namespace msplora {
namespace {

/// Runs one check and keeps its problem, so that the next checks still run.
template <class Check>
bool attempt(ErrorList& errors, Check&& check) {
  try {
    check();
    return true;
  } catch (const Error& error) {
    errors.add(error.where(), error.message(), error.hint());
    return false;
  }
}

/// config.json, the architecture and the tokenizer.
std::optional<ModelConfig> check_model(const ModelOptions& model, std::shared_ptr<const Tokenizer>& tokenizer,
                                       ErrorList& errors) {
  std::optional<ModelConfig> config;
  if (!attempt(errors, [&] { config = load_supported_config(model.path); })) return std::nullopt;
  attempt(errors, [&] { tokenizer = load_tokenizer(model.path, *config); });
  return config;
}

/// Target modules, ranks and the other adapter options against the shapes that config.json gives.
std::optional<int64_t> check_adapter(const AdapterConfig& adapter, const ModelConfig& config,
                                     ErrorList& errors) {
  std::optional<int64_t> count;
  attempt(errors, [&] {
    const auto sites = sites_of_shape(config, ModelTask::kNone);
    const auto parameters = parameters_of_shape(config, ModelTask::kSequenceClassification);
    count = count_parameters(adapter, sites, describe(config).num_layers(), attention_heads(config),
                             kDefaultHeadModules, parameters)
                .total;
  });
  return count;
}

/// The head of the adapter that the run goes on from.
void check_head(const AdapterConfig& adapter, int64_t num_labels, ErrorList& errors) {
  if (adapter.init_from.empty()) return;
  attempt(errors, [&] {
    const int64_t outputs = load_adapter_facts(adapter.init_from).head_outputs;
    if (outputs == 0 || outputs == num_labels) return;
    errors.add("adapter.init_from: " + adapter.init_from,
               fmt::format("its head has {} outputs, the data have {} classes", outputs, num_labels),
               "name the adapter's classes in data.labels");
  });
}

std::optional<PreparedData> check_data(const Recipe& recipe, const std::optional<ModelConfig>& config,
                                       const std::shared_ptr<const Tokenizer>& tokenizer, ErrorList& errors) {
  std::optional<PreparedData> prepared;
  attempt(errors, [&] {
    if (config && tokenizer != nullptr) {
      prepared = prepare_data(recipe, *config, tokenizer);
      return;
    }
    // Without a tokenizer the files can still be read.
    const TaskParts parts{true, true, recipe.data.test.has_value()};
    load_task_data(recipe.data, task_kind(recipe.task.type).labels, static_cast<uint64_t>(recipe.train.seed),
                   parts);
  });
  return prepared;
}

/// Gives a note about what is not wrong but must be said.
std::string check_output(const OutputOptions& output, ErrorList& errors) {
  std::error_code code;
  const std::filesystem::path directory = output.dir;
  if (directory.empty() || !std::filesystem::exists(directory, code)) return {};
  if (!std::filesystem::is_directory(directory, code)) {
    errors.add("output.dir: " + output.dir, "expected a directory, found a file");
  } else if (!output.overwrite && !std::filesystem::is_empty(directory, code)) {
    return fmt::format(
        "note: output.dir {} exists and is not empty: train it with --resume, --overwrite or another "
        "output.dir\n",
        output.dir);
  }
  return {};
}

/// The weights' headers against config.json and the number of classes; where the head comes from.
std::string check_weights(const Recipe& recipe, const ModelConfig& config,
                          const std::optional<PreparedData>& data, ErrorList& errors) {
  std::string head;
  attempt(errors, [&] {
    ModelLoadOptions options;
    options.num_labels = data ? data->task->num_outputs() : config.num_labels;
    head = head_line(plan_load(recipe.model.path, options), config, recipe.train.seed);
    if (start_brings_head(recipe.adapter)) head = "the adapter's";
  });
  return head;
}

std::string summary_of(const Recipe& recipe, const std::optional<PreparedData>& data,
                       const std::optional<int64_t>& count, const std::string& head) {
  Panel panel;
  if (!head.empty()) panel.add("head", head);
  panel.add("method", method_line(recipe.adapter));
  if (!recipe.adapter.target_modules.empty()) panel.add("targets", shortened(recipe.adapter.target_modules));
  if (count) {
    panel.add("trainable", fmt::format("{}{} without the head",
                                       is_unsettled(recipe.adapter) ? "at least " : "", with_commas(*count)));
  }
  if (data && data->labels) panel.add("labels", shortened(data->labels->names(), 12));
  if (data) {
    for (const auto* notes : {&data->train.data.notes(), &data->notes}) {
      for (const std::string& note : *notes) panel.add("data", note);
    }
    panel.add("train", part_line(data->train));
    for (const EncodedPart& part : data->validation) panel.add(part.name, part_line(part));
    for (const EncodedPart& part : data->test) panel.add(part.name, part_line(part));
  }
  return panel.text();
}

struct ValidateArguments {
  RecipeArguments recipe;
  bool compare = false;
  bool pretrain = false;
  bool federate = false;
};

/// What the recipe needs beside a plain one.
void check_rest(const Recipe& recipe, const std::optional<PreparedData>& data, ErrorList& errors) {
  if (data) check_run(recipe, *data, errors);
}
void check_rest(const FederateRecipe& recipe, const std::optional<PreparedData>& data, ErrorList& errors) {
  check_rest(static_cast<const Recipe&>(recipe), data, errors);
  if (data && !data->train.examples.empty()) attempt(errors, [&] { split_clients(recipe, *data); });
}

/// A pretraining recipe: model directory, text files, output.
void validate_pretraining(const RecipeArguments& arguments, const CommonOptions& common) {
  PretrainRecipe recipe;
  ErrorList errors;
  read_recipe(arguments, common, recipe, errors);
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!recipe.model.path.empty() && check_model(recipe.model, tokenizer, errors) && !recipe.model.random_init)
    attempt(errors, [&] { Checkpoint::open(recipe.model.path); });
  for (const auto* files : {&recipe.data.train, &recipe.data.validation}) {
    for (const std::string& file : *files) attempt(errors, [&] { LineReader{file}; });
  }
  const std::string note = check_output(recipe.output, errors);
  errors.throw_if_any(ErrorCode::kConfig, arguments.file);
  if (common.json) return print_json({{"recipe", arguments.file}, {"valid", true}});
  std::cout << arguments.file << ": no problem found\n" << note;
}

template <class AnyRecipe>
void validate(const RecipeArguments& arguments, const CommonOptions& common) {
  AnyRecipe recipe;
  ErrorList errors;
  read_recipe(arguments, common, recipe, errors);
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<ModelConfig> config;
  std::optional<int64_t> count;
  if (!recipe.model.path.empty()) config = check_model(recipe.model, tokenizer, errors);
  if constexpr (std::is_same_v<AnyRecipe, CompareRecipe>) {
    if (config) attempt(errors, [&] { plan_comparison(recipe, comparison_base(*config)); });
  } else if (config) {
    recipe.adapter = with_default_targets(recipe.adapter, config->model_type);
    count = check_adapter(recipe.adapter, *config, errors);
  }
  const auto data = check_data(recipe, config, tokenizer, errors);
  std::string head;
  if (config && !recipe.model.random_init) head = check_weights(recipe, *config, data, errors);
  if (data) check_head(recipe.adapter, data->task->num_outputs(), errors);
  check_rest(recipe, data, errors);
  const std::string note = check_output(recipe.output, errors);
  errors.throw_if_any(ErrorCode::kConfig, arguments.file);
  if (common.json) {
    nlohmann::ordered_json json = {{"recipe", arguments.file}, {"valid", true}};
    if (!recipe.adapter.target_modules.empty()) json["target_modules"] = recipe.adapter.target_modules;
    if (count) json["trainable_parameters"] = *count;
    print_json(json);
    return;
  }
  std::cout << arguments.file << ": no problem found\n" << note << summary_of(recipe, data, count, head);
}

}  // namespace

Command add_validate(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand(
      "validate", "Check a recipe, its model directory and its data, without training");
  auto arguments = std::make_shared<ValidateArguments>();
  add_recipe_arguments(*command, arguments->recipe, /*writes=*/true);
  auto* pretrain = command->add_flag("--pretrain", arguments->pretrain, "The recipe is one of `pretrain`");
  auto* federate = command->add_flag("--federate", arguments->federate, "The recipe is one of `federate`")
                       ->excludes(pretrain);
  command->add_flag("--compare", arguments->compare, "The recipe is one of `compare`")
      ->excludes(pretrain)
      ->excludes(federate);
  add_common(*command, common);
  return {command, [arguments, &common] {
            if (arguments->pretrain) return validate_pretraining(arguments->recipe, common);
            if (arguments->federate) return validate<FederateRecipe>(arguments->recipe, common);
            if (arguments->compare) return validate<CompareRecipe>(arguments->recipe, common);
            validate<Recipe>(arguments->recipe, common);
          }};
}

}  // namespace msplora
