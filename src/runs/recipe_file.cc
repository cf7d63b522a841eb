#include "msplora/runs/recipe_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/planning.h"
#include "msplora/core/log.h"
#include "msplora/runs/run_directory.h"
#include "msplora/tasks/facts.h"
#include "msplora/tasks/task.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

/// Keys of the options with different values: "adapter.rank", "adapter.aslora.interval".
std::vector<std::string> different_options(const AdapterConfig& a, const AdapterConfig& b) {
  std::vector<std::string> keys;
  const auto compare = [&](const std::string& prefix, const nlohmann::json& left,
                           const nlohmann::json& right) {
    for (const auto& [name, value] : left.items())
      if (value != right.at(name)) keys.push_back(prefix + name);
  };
  nlohmann::json left = to_json(a), right = to_json(b);
  for (const auto& group : a.groups) {
    compare("adapter." + group.first + ".", left.at(group.first), right.at(group.first));
    left.erase(group.first);
  }
  compare("adapter.", left, right);
  return keys;
}

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

std::vector<std::string> make_room_for_method(AdapterConfig& adapter,
                                              const std::vector<std::string>& overrides) {
  Recipe changed;
  changed.adapter = adapter;
  ErrorList told_when_applied;
  for (const std::string& assignment : overrides) apply_override(changed, assignment, told_when_applied);
  const std::string& method = changed.adapter.method;
  const std::vector<MethodInfo> methods = adapter_methods();
  const bool is_known = std::any_of(methods.begin(), methods.end(),
                                    [&](const MethodInfo& known) { return known.name == method; });
  if (method == adapter.method || !is_known) return {};
  const AdapterConfig fitting = config_for_method(adapter, method);
  std::vector<std::string> keys = different_options(adapter, fitting);
  std::erase(keys, "adapter.method");
  adapter = fitting;
  return keys;
}

void note_left_out(const std::vector<std::string>& keys, const std::string& method, const fs::path& file) {
  if (keys.empty()) return;
  log_info(fmt::format("{}: {} left out, as `{}` has no use for {}", file.string(), fmt::join(keys, ", "),
                       method, keys.size() > 1 ? "them" : "it"));
}

OptionNode parse_recipe(const fs::path& file, ErrorList& errors) {
  const std::string text = read_file(file);
  try {
    return parse_option_yaml(text, file.string());
  } catch (const Error& error) {
    errors.add(error.where(), error.message(), error.hint());
    return {};
  }
}

std::string command_of_recipe(const OptionNode& recipe) {
  if (recipe.find("compare") != nullptr) return "compare";
  return recipe.find("federated") != nullptr ? "federate" : "";
}

std::string command_of_recipe(const fs::path& file) {
  try {
    return command_of_recipe(parse_option_yaml(read_file(file), file.string()));
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
      if (name != kRecipeFile || !is_recipe_of_run(recipe))
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
