#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <filesystem>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "adapters/method.h"
#include "msplora/adapters/config.h"
#include "msplora/core/error.h"

namespace msplora::detail {

/// adapter_config.json of an adapter.
struct PeftConfig {
  AdapterConfig config;            // patterns as a map, see below
  const PeftForm* form = nullptr;  // of the method
  bool has_targets = false;
  std::string task_type;
  std::string base_name;
  bool keeps_ties = false;  // a tied matrix that is saved stays tied
  // In the order of the file, which is the order PEFT tries them in.
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
};

/// Reads entries of adapter_config.json; absent and null ones leave the value as it is. Wrong types are
/// collected for finish(), which throws them.
class PeftReader {
 public:
  using Json = nlohmann::ordered_json;

  PeftReader(const Json& file, std::string where) : file_(file), where_(std::move(where)) {}

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

/// What LoRA's files say beyond the common entries.
void read_peft_lora(PeftReader& reader, PeftConfig& result);

/// The tuners that can be read.
std::vector<std::string> peft_types();

/// What `bias` says in a tuner's file for the biases of adapted modules: "lora_only", "glora_only".
std::string peft_bias_word(const std::string& type);

/// Absent keys have PEFT's defaults. Throws Error{kFormat} listing wrong types, Error{kModel} listing
/// together everything that makes the adapter something that no method here is (another peft_type, ...).
PeftConfig read_peft_config(const std::filesystem::path& path);

/// The key of adapter_config.json that one of our options stands under.
std::string peft_key(const PeftConfig& peft, const std::string& option);

/// `value` as PEFT writes it: whole numbers without a fraction.
nlohmann::json peft_number(double value);

}  // namespace msplora::detail
