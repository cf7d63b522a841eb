#include "msplora/runs/recipe_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "msplora/runs/run_directory.h"
#include "msplora/tasks/facts.h"
#include "msplora/tasks/task.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

/// An adapter of a language model goes on with texts and with instructions alike; one without task.json
/// tells PEFT's name of its task at most.
void check_same_task(const std::string& wanted, const std::string& adapter, ErrorList& errors) {
  const TaskKind& kind = task_kind(wanted);
  std::string own;
  bool goes_on = true;
  if (const std::optional<TaskFacts> facts = load_task_facts(adapter)) {
    own = facts->type;
    goes_on = own == wanted || (kind.head == ModelTask::kCausalLm && task_kind(own).head == kind.head);
  } else {
    own = load_adapter_facts(adapter).task_type;
    goes_on = own.empty() || own == kind.peft_type;
  }
  if (!goes_on)
    errors.add("task.type",
               fmt::format("`{}`, but the adapter in {} was trained for {}", wanted, adapter, own));
}

}  // namespace

void take_task(const std::filesystem::path& adapter, TaskOptions& task, DataConfig& data) {
  std::optional<TaskFacts> facts = load_task_facts(adapter);
  if (!facts) facts = facts_of_language_model(load_adapter_facts(adapter).task_type);
  if (!facts) return;
  task.type = facts->type;
  data.labels = facts->labels;
}

std::string command_of_recipe(const fs::path& file) {
  try {
    const OptionNode recipe = parse_option_yaml(read_file(file), file.string());
    if (recipe.find("compare") != nullptr) return "compare";
    return recipe.find("federated") != nullptr ? "federate" : "";
  } catch (const Error&) {
    return {};  // reading it as a recipe says what is wrong
  }
}

std::string task_of_recipe(const fs::path& file) {
  try {
    const OptionNode recipe = parse_option_yaml(read_file(file), file.string());
    const OptionNode* const task = recipe.find("task");
    const OptionNode* const type = task == nullptr ? nullptr : task->find("type");
    return type == nullptr ? "" : type->text;
  } catch (const Error&) {
    return {};
  }
}

bool start_brings_head(const AdapterConfig& adapter) {
  return !adapter.init_from.empty() && load_adapter_facts(adapter.init_from).head_outputs > 0;
}

void check_start(const Recipe& wanted, const Recipe& own, ErrorList& errors) {
  const std::string& adapter = own.adapter.init_from;
  check_settings(wanted.adapter, own.adapter, errors);
  check_same_task(wanted.task.type, adapter, errors);
  if (!own.data.labels.empty() && wanted.data.labels != own.data.labels) {
    errors.add("data.labels",
               fmt::format("the classes of the adapter in {} are {}, in this order", adapter,
                           fmt::join(own.data.labels, ", ")),
               "leave it out");
  }
}

std::vector<fs::path> files_of(const DataConfig& data) {
  std::vector<fs::path> files;
  for (const auto* part : {&data.train, &data.validation, &data.test}) {
    if (!*part) continue;
    for (const WeightedFile& file : (*part)->files) files.emplace_back(file.path);
  }
  if (data.dir) files.emplace_back(*data.dir);
  std::error_code code;
  // Else it is a name.
  if (fs::exists(data.chat.chat_template, code)) files.emplace_back(data.chat.chat_template);
  return files;
}

std::vector<fs::path> files_of(const PretrainDataConfig& data) {
  std::vector<fs::path> files(data.train.begin(), data.train.end());
  files.insert(files.end(), data.validation.begin(), data.validation.end());
  return files;
}

void check_place(const fs::path& output, const fs::path& recipe, const std::vector<fs::path>& inputs,
                 ErrorList& errors) {
  if (output.empty()) return;
  try {
    refuse_input_as_output(output, inputs, "output.dir");
    // Those in it that results go to may be links.
    for (const std::string& name : run_file_names()) {
      const fs::path written = output / name;
      refuse_input_as_output(written, inputs, "output.dir");
      // What a run has filled in, another one fills in alike.
      if (name != "recipe.yaml" || !is_recipe_of_run(recipe))
        refuse_input_as_output(written, {recipe}, "output.dir");
    }
  } catch (const Error& error) {
    errors.add(error.where(), error.message(), error.hint());
  }
}

Recipe recorded_recipe(const std::filesystem::path& file) {
  Recipe recipe;
  ErrorList errors;
  read_yaml(recipe, read_file(file), file.string(), errors);
  errors.throw_if_any(ErrorCode::kConfig, file.string());
  return recipe;
}

}  // namespace msplora
