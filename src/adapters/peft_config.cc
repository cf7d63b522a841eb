#include "adapters/peft_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adapters/stored_tensors.h"
#include "msplora/core/error.h"

namespace msplora::detail {
namespace {

using Json = nlohmann::ordered_json;

/// Options of PEFT that change what the tensors mean; any value that is set refuses the adapter.
struct Unsupported {
  const char* key;
  const char* reason;
};
constexpr Unsupported kUnsupported[] = {
    {"lora_bias", "biases of lora_B are not supported"},
    {"use_qalora", "QALoRA groups the inputs"},
    {"use_bdlora", "block-diagonal LoRA is not supported"},
    {"alora_invocation_tokens", "activated LoRA acts on some tokens only"},
    {"kasa_config", "KaSA changes the base weights"},
    {"monteclora_config", "Monte Carlo LoRA is not supported"},
    {"arrow_config", "arrow routing is not supported"},
    {"velora_config", "VeLoRA is not supported"},
    {"layer_replication", "the base would have other layers"},
    {"target_parameters", "updates of bare parameters are not supported"},
    {"trainable_token_indices", "trained token embeddings are not supported"},
};

/// Our options that every tuner of PEFT calls otherwise.
constexpr std::pair<const char*, const char*> kKeys[] = {
    {"method", "peft_type"},
    {"rank", "r"},
    {"target_modules_regex", "target_modules"},
    {"exclude_modules_regex", "exclude_modules"},
};

bool is_set(const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  return !((value.is_object() || value.is_array()) && value.empty());
}

/// The recipe's name of an initialisation that takes a part out of the base, by a decomposition that gives
/// the same part again; "" for any other.
std::string weight_init(const std::string& name) {
  std::string lower = name;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (name == "pissa" || lower == "olora") return lower;
  return {};
}

/// The method that PEFT's tuner is, or null.
const Method* method_of_type(const std::string& type) {
  for (const Method& method : all_methods()) {
    if (!method.peft.type.empty() && method.peft.type == type) return &method;
  }
  return nullptr;
}

/// Throws when the file is no adapter that can be read.
const Method* check_supported(const Json& file, const std::string& where) {
  ErrorList errors;
  const auto type = file.find("peft_type");
  if (type == file.end() || !type->is_string()) {
    throw Error(ErrorCode::kFormat, where + ": peft_type", "missing: this is no adapter of PEFT");
  }
  const Method* method = method_of_type(*type);
  if (method == nullptr) {
    errors.add(where + ": peft_type", fmt::format("`{}` adapters cannot be read", type->get<std::string>()),
               fmt::format("{} can", fmt::join(peft_types(), ", ")));
  }
  for (const auto& [key, reason] : kUnsupported) {
    const auto found = file.find(key);
    if (found != file.end() && is_set(*found)) errors.add(fmt::format("{}: {}", where, key), reason);
  }
  const auto init = file.find("init_lora_weights");
  if (init != file.end() && init->is_string() && weight_init(*init).empty()) {
    const std::string name = *init;
    for (const char* changing : {"pissa", "olora", "corda", "lora_ga", "loftq"}) {
      if (name.rfind(changing, 0) != 0) continue;
      errors.add(where + ": init_lora_weights",
                 fmt::format("`{}` also changed the base weights, in a way that cannot be repeated", name),
                 "train it with `pissa` or `olora`, which can, or merge it in the program that trained it");
    }
  }
  errors.throw_if_any(ErrorCode::kModel, where);
  return method;
}

void assign_targets(AdapterConfig& config, const std::optional<std::string>& text) {
  if (!text) return;
  std::string lower = *text;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (lower == "all-linear") {
    config.target_modules = {lower};
  } else {
    config.target_modules_regex = *text;
  }
}

}  // namespace

std::vector<std::string> peft_types() {
  std::vector<std::string> types;
  for (const Method& method : all_methods()) {
    if (!method.peft.type.empty()) types.push_back(method.peft.type);
  }
  return types;
}

std::string peft_bias_word(const std::string& type) {
  std::string word;
  for (const char c : type) word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return word + "_only";
}

void read_peft_lora(PeftReader& reader, PeftConfig& result) {
  AdapterConfig& config = result.config;
  config.alpha = 8.0;
  std::optional<std::string> layers_text;
  reader.read("lora_alpha", config.alpha);
  reader.read("lora_dropout", config.dropout);
  reader.read("use_rslora", config.use_rslora);
  reader.read("use_dora", config.use_dora);
  // Says how the base stores its weights, which its own files know; factors are the same either way.
  bool is_transposed = false;
  reader.read("fan_in_fan_out", is_transposed);
  reader.read("ensure_weight_tying", result.keeps_ties);
  if (const Json* init = reader.find("init_lora_weights"); init != nullptr && init->is_string()) {
    if (const std::string name = weight_init(*init); !name.empty()) config.init = name;
  }
  reader.read_names("exclude_modules", config.exclude_modules, config.exclude_modules_regex);
  reader.read_names("layers_pattern", config.layers_pattern, layers_text);
  if (layers_text && !layers_text->empty()) config.layers_pattern = {*layers_text};
  reader.read_layers(config.layers_to_transform);
  reader.read_pattern("rank_pattern", result.rank_pattern);
  reader.read_pattern("alpha_pattern", result.alpha_pattern);
  config.rank_pattern = {result.rank_pattern.begin(), result.rank_pattern.end()};
  config.alpha_pattern = {result.alpha_pattern.begin(), result.alpha_pattern.end()};
}

PeftConfig read_peft_config(const std::filesystem::path& path) {
  const Json file = read_json_object(path);
  const std::string where = path.string();
  const Method* method = check_supported(file, where);
  PeftConfig result;
  result.form = &method->peft;
  AdapterConfig& config = result.config;
  config.method = method->name;
  config.rank = 8;
  PeftReader reader(file, where);
  reader.read("r", config.rank);
  reader.read("bias", config.bias);
  reader.read("task_type", result.task_type);
  reader.read("base_model_name_or_path", result.base_name);
  std::optional<std::string> target_text, saved_text;
  config.target_modules.clear();
  reader.read_names("target_modules", config.target_modules, target_text);
  reader.read_names("modules_to_save", config.modules_to_save, saved_text);
  method->peft.read(reader, result);
  if (config.bias == peft_bias_word(method->peft.type)) config.bias = "lora_only";
  reader.finish();
  result.has_targets = target_text.has_value() || !config.target_modules.empty();
  assign_targets(config, target_text);
  if (saved_text) config.modules_to_save = {*saved_text};
  return result;
}

std::string peft_key(const PeftConfig& peft, const std::string& option) {
  for (const auto& [ours, key] : peft.form->keys) {
    if (option == ours) return key;
  }
  for (const auto& [ours, key] : kKeys) {
    if (option == ours) return key;
  }
  return option;
}

nlohmann::json peft_number(double value) {
  if (std::floor(value) == value && std::abs(value) < 9e15) return static_cast<int64_t>(value);
  return value;
}

}  // namespace msplora::detail
