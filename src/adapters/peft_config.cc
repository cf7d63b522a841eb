#include "adapters/peft_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
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

/// Our options that PEFT calls otherwise.
constexpr std::pair<const char*, const char*> kKeys[] = {
    {"method", "peft_type"},
    {"rank", "r"},
    {"alpha", "lora_alpha"},
    {"dropout", "lora_dropout"},
    {"init", "init_lora_weights"},
    {"target_modules_regex", "target_modules"},
    {"exclude_modules_regex", "exclude_modules"},
};
constexpr std::pair<const char*, const char*> kGloraKeys[] = {
    {"glora.choice_a", "config_A_B"}, {"glora.choice_b", "config_A_B"}, {"glora.choice_c", "config_C"},
    {"glora.choice_d", "config_D_E"}, {"glora.choice_e", "config_D_E"},
};

bool is_set(const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  return !((value.is_object() || value.is_array()) && value.empty());
}

class Reader {
 public:
  Reader(const Json& file, std::string where) : file_(file), where_(std::move(where)) {}

  const Json* find(const char* key) const {
    const auto found = file_.find(key);
    return found == file_.end() || found->is_null() ? nullptr : &*found;
  }

  void wrong(const char* key, const std::string& expected) {
    errors_.add(fmt::format("{}: {}", where_, key),
                fmt::format("expected {}, found {}", expected, file_.at(key).dump()));
  }

  void read(const char* key, std::string& to) {
    if (const Json* value = find(key))
      value->is_string() ? (void)(to = value->get<std::string>()) : wrong(key, "text");
  }
  void read(const char* key, double& to) {
    if (const Json* value = find(key))
      value->is_number() ? (void)(to = value->get<double>()) : wrong(key, "a number");
  }
  void read(const char* key, int64_t& to) {
    if (const Json* value = find(key))
      value->is_number_integer() ? (void)(to = value->get<int64_t>()) : wrong(key, "a whole number");
  }
  void read(const char* key, bool& to) {
    if (const Json* value = find(key))
      value->is_boolean() ? (void)(to = value->get<bool>()) : wrong(key, "true or false");
  }

  /// A list of names, or one string that goes to `text`.
  void read_names(const char* key, std::vector<std::string>& names, std::optional<std::string>& text) {
    const Json* value = find(key);
    if (value == nullptr) return;
    if (value->is_string()) {
      text = value->get<std::string>();
      return;
    }
    if (!value->is_array()) return wrong(key, "a list of names");
    names.clear();
    for (const Json& entry : *value) {
      if (!entry.is_string()) return wrong(key, "a list of names");
      names.push_back(entry.get<std::string>());
    }
  }

  void read_layers(std::vector<int64_t>& layers) {
    constexpr const char* kKey = "layers_to_transform";
    const Json* value = find(kKey);
    if (value == nullptr) return;
    const Json list = value->is_array() ? *value : Json::array({*value});
    for (const Json& entry : list) {
      if (!entry.is_number_integer()) return wrong(kKey, "a list of layer indices");
      layers.push_back(entry.get<int64_t>());
    }
  }

  template <typename T>
  void read_pattern(const char* key, std::vector<std::pair<std::string, T>>& to) {
    const Json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_object()) return wrong(key, "an object of patterns");
    for (const auto& [pattern, entry] : value->items()) {
      const bool fits = std::is_integral_v<T> ? entry.is_number_integer() : entry.is_number();
      if (!fits) return wrong(key, "an object of numbers");
      to.emplace_back(pattern, entry.template get<T>());
    }
  }

  void read_choice(const char* key, const std::vector<std::string>& known, std::string& to) {
    const Json* value = find(key);
    if (value == nullptr) return;
    const std::string choice = value->is_string() ? value->get<std::string>() : "";
    if (std::find(known.begin(), known.end(), choice) == known.end())
      return wrong(key, fmt::format("one of {}", fmt::join(known, ", ")));
    to = choice;
  }

  void finish() const { errors_.throw_if_any(ErrorCode::kFormat, where_); }

 private:
  const Json& file_;
  std::string where_;
  ErrorList errors_;
};

/// The recipe's name of an initialisation that takes a part out of the base, by a decomposition that gives
/// the same part again; "" for any other.
std::string weight_init(const std::string& name) {
  std::string lower = name;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (name == "pissa" || lower == "olora") return lower;
  return {};
}

void check_supported(const Json& file, const std::string& where) {
  ErrorList errors;
  const auto type = file.find("peft_type");
  if (type == file.end() || !type->is_string()) {
    throw Error(ErrorCode::kFormat, where + ": peft_type", "missing: this is no adapter of PEFT");
  }
  if (*type != "LORA" && *type != "GLORA") {
    errors.add(where + ": peft_type", fmt::format("`{}` adapters cannot be read", type->get<std::string>()),
               "LORA and GLORA can");
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

/// What LoRA's files say beyond the common entries.
void read_lora(Reader& reader, PeftConfig& result) {
  AdapterConfig& config = result.config;
  config.method = "lora";
  config.alpha = 8.0;
  std::optional<std::string> layers_text;
  reader.read("lora_alpha", config.alpha);
  reader.read("lora_dropout", config.dropout);
  reader.read("use_rslora", config.use_rslora);
  reader.read("use_dora", config.use_dora);
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

/// GLORA has one choice for A and B, one for C, one for D and E.
void read_glora(Reader& reader, AdapterConfig& config) {
  config.method = "glora";
  config.set("glora.search", false);
  const auto read = [&](const char* key, const std::vector<std::string>& known,
                        const std::vector<std::string>& options) {
    std::string choice = config.get(options.front());
    reader.read_choice(key, known, choice);
    for (const std::string& option : options) config.set(option, choice);
  };
  read("config_A_B", {"lora", "vector", "constant", "none"}, {"glora.choice_a", "glora.choice_b"});
  read("config_C", {"lora", "vector", "none"}, {"glora.choice_c"});
  read("config_D_E", {"vector", "constant", "none"}, {"glora.choice_d", "glora.choice_e"});
  if (config.bias == "glora_only") config.bias = "lora_only";
}

}  // namespace

PeftConfig read_peft_config(const std::filesystem::path& path) {
  const Json file = read_json_object(path);
  const std::string where = path.string();
  check_supported(file, where);
  PeftConfig result;
  AdapterConfig& config = result.config;
  config.rank = 8;
  Reader reader(file, where);
  reader.read("r", config.rank);
  reader.read("bias", config.bias);
  reader.read("task_type", result.task_type);
  reader.read("base_model_name_or_path", result.base_name);
  std::optional<std::string> target_text, saved_text;
  config.target_modules.clear();
  reader.read_names("target_modules", config.target_modules, target_text);
  reader.read_names("modules_to_save", config.modules_to_save, saved_text);
  if (file.at("peft_type") == "GLORA") {
    read_glora(reader, config);
  } else {
    read_lora(reader, result);
  }
  reader.finish();
  result.has_targets = target_text.has_value() || !config.target_modules.empty();
  assign_targets(config, target_text);
  if (saved_text) config.modules_to_save = {*saved_text};
  return result;
}

std::string peft_key(const PeftConfig& peft, const std::string& option) {
  if (peft.config.method == "glora") {
    for (const auto& [ours, key] : kGloraKeys) {
      if (option == ours) return key;
    }
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
