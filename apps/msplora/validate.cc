#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "msplora/runs/compare.h"
#include "msplora/runs/federated_run.h"
#include "msplora/runs/pretraining.h"
#include "msplora/runs/run.h"
#include "panel.h"
#include "program.h"
#include "recipe_arguments.h"

namespace msplora {
namespace {

std::string summary_of(const Run& run) {
  const Recipe& recipe = run.recipe;
  Panel panel;
  const std::string head = head_line(run);
  if (!head.empty()) panel.add("head", head);
  panel.add("method", method_line(recipe.adapter));
  if (!recipe.adapter.target_modules.empty()) panel.add("targets", shortened(recipe.adapter.target_modules));
  if (run.planned) {
    panel.add("trainable",
              fmt::format("{}{} without the head", is_unsettled(recipe.adapter) ? "at least " : "",
                          with_commas(run.planned->total)));
  }
  if (run.data.labels) panel.add("labels", shortened(run.data.labels->names(), 12));
  if (run.data.task) add_data_lines(run.data, panel);
  return panel.text();
}

/// Notes and the summary of each part, as the text form has them.
nlohmann::ordered_json data_json(const RunData& data) {
  nlohmann::ordered_json json = {{"notes", data.train.data.notes()}, {"train", data.train.summary.text()}};
  for (const std::string& note : data.notes) json["notes"].push_back(note);
  for (const auto* parts : {&data.validation, &data.test}) {
    for (const EncodedPart& part : *parts) json[part.name] = part.summary.text();
  }
  return json;
}

struct ValidateArguments {
  RecipeArguments recipe;
  bool compare = false;
  bool pretrain = false;
  bool federate = false;
};

nlohmann::ordered_json summary_json(const Run& run) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!run.recipe.adapter.target_modules.empty()) json["target_modules"] = run.recipe.adapter.target_modules;
  if (run.planned) json["trainable_parameters"] = run.planned->total;
  if (run.data.task) json["data"] = data_json(run.data);
  return json;
}
std::string summary_of(const PretrainingRun&) {
  return {};
}
nlohmann::ordered_json summary_json(const PretrainingRun&) {
  return nlohmann::ordered_json::object();
}

/// Opens the run as its command would, without weights; all problems, those of the file too, in one error.
template <class AnyRecipe>
void validate(const RecipeArguments& arguments, const CommonOptions& common) {
  AnyRecipe recipe;
  ErrorList errors;
  read_recipe(arguments.file, changes_of(arguments, common), recipe, errors);
  const auto run = check_run(recipe, errors);
  const std::string note = check_output(recipe.output, errors);
  errors.throw_if_any(ErrorCode::kConfig, arguments.file);
  if (common.json) {
    nlohmann::ordered_json json = {{"recipe", arguments.file}, {"valid", true}};
    json.update(summary_json(run));
    return print_json(json);
  }
  std::cout << arguments.file << ": no problem found\n" << note << summary_of(run);
}

}  // namespace

Command add_validate(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand(
      "validate", "Check a recipe, its model directory and its data, without training");
  auto arguments = std::make_shared<ValidateArguments>();
  add_recipe_arguments(*command, arguments->recipe, /*writes=*/true);
  auto* pretrain = command->add_flag("--pretrain", arguments->pretrain, "The recipe is one of `pretrain`");
  auto* federate = command
                       ->add_flag("--federate", arguments->federate,
                                  "The recipe is one of `federate`, also without its section")
                       ->excludes(pretrain);
  command
      ->add_flag("--compare", arguments->compare, "The recipe is one of `compare`, also without its section")
      ->excludes(pretrain)
      ->excludes(federate);
  add_common(*command, common);
  return {command, [arguments, &common] {
            if (arguments->pretrain) return validate<PretrainRecipe>(arguments->recipe, common);
            const std::string kind = arguments->compare    ? "compare"
                                     : arguments->federate ? "federate"
                                                           : command_of_recipe(arguments->recipe.file);
            if (kind == "federate") return validate<FederateRecipe>(arguments->recipe, common);
            if (kind == "compare") return validate<CompareRecipe>(arguments->recipe, common);
            validate<Recipe>(arguments->recipe, common);
          }};
}

}  // namespace msplora
