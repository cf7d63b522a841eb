#include "msplora/adapters/files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/files_detail.h"
#include "adapters/registry.h"
#include "adapters/stored_tensors.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/error.h"
#include "msplora/core/option_io.h"
#include "msplora/gguf/file.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void throw_no_adapter(const fs::path& directory) {
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) {
    throw Error(ErrorCode::kIo, directory.string(), "no such directory");
  }
  throw Error(ErrorCode::kIo, directory.string(),
              "holds no adapter: neither adapter.json nor adapter_config.json",
              "`train` writes RUN/adapter and RUN/adapter-native");
}

std::unique_ptr<Adapter> load(const fs::path& directory, AdapterTarget target,
                              const AdapterConfig* training) {
  switch (adapter_form(directory)) {
    case AdapterForm::kNative:
      return detail::load_native_adapter(directory, std::move(target), training);
    case AdapterForm::kPeft:
      return detail::load_peft_adapter(directory, std::move(target), training);
    case AdapterForm::kGguf:
      return detail::load_gguf_adapter(directory, std::move(target), training);
    case AdapterForm::kNone:
      break;
  }
  throw_no_adapter(directory);
}

/// Outputs of a classification head, by the names that Hugging Face's models give its last layer.
int64_t head_outputs_of(const AdapterFacts& facts) {
  for (const char* name : {"classifier.out_proj.weight", "classifier.weight", "score.weight"}) {
    const auto found = facts.shapes.find(name);
    if (found != facts.shapes.end() && found->second.size() == 2) return found->second[0];
  }
  return 0;
}

/// Lists of names are sets.
json in_order(json value) {
  const bool is_names = value.is_array() && std::all_of(value.begin(), value.end(),
                                                        [](const json& entry) { return entry.is_string(); });
  if (is_names) std::sort(value.begin(), value.end());
  return value;
}

void compare_settings(const json& wanted, const json& own, const std::string& prefix,
                      const std::string& directory, ErrorList& errors) {
  for (const auto& [key, value] : wanted.items()) {
    const json& theirs = own.at(key);
    const bool is_group = value.is_object() && theirs.is_object() && prefix == "adapter." &&
                          key.find("_pattern") == std::string::npos;
    if (is_group) {
      compare_settings(value, theirs, prefix + key + ".", directory, errors);
    } else if (key == "target_modules" && theirs.empty()) {
      continue;  // a GGUF file names its layers alone
    } else if (in_order(value) != in_order(theirs)) {
      errors.add(prefix + key,
                 fmt::format("{}, but the adapter in {} has {}", value.dump(), directory, theirs.dump()),
                 "leave it out: the run takes over the settings of adapter.init_from");
    }
  }
}

}  // namespace

namespace detail {

std::string made_for(const std::string& base_name) {
  return base_name.empty() ? "is the model the base that the adapter was made for?"
                           : fmt::format("the adapter was made for {}; is the model that base?", base_name);
}

void take_training_options(const AdapterConfig& from, AdapterConfig& to) {
  to.dropout = from.dropout;
  to.dropouts = from.dropouts;
  to.lora_plus_ratio = from.lora_plus_ratio;
}

std::unique_ptr<Adapter> start_adapter(const AdapterConfig& config, AdapterTarget target) {
  ErrorList errors;
  check_settings(config, settings_from(config.init_from), errors);
  errors.throw_if_any(ErrorCode::kConfig, "adapter");
  return load(config.init_from, std::move(target), &config);
}

void check_start(const AdapterConfig& config, const std::vector<TensorSpec>& tensors, ErrorList& errors) {
  const AdapterFacts facts = load_adapter_facts(config.init_from);
  if (facts.form == AdapterForm::kGguf) return;  // its names are llama.cpp's; loading meets them
  std::vector<std::string> missing, misshaped;
  for (const TensorSpec& tensor : tensors) {
    const auto found = facts.shapes.find(tensor.name);
    if (found == facts.shapes.end()) {
      missing.push_back(tensor.name);
    } else if (found->second != tensor.shape) {
      misshaped.push_back(fmt::format("{}: expected [{}], found [{}]", tensor.name,
                                      fmt::join(tensor.shape, ", "), fmt::join(found->second, ", ")));
    }
  }
  if (missing.empty() && misshaped.empty()) return;
  errors.add("adapter.init_from: " + config.init_from,
             "the adapter does not fit the model" + list_entries("missing", missing) +
                 list_entries("mis-shaped", misshaped),
             made_for(facts.base_name));
}

}  // namespace detail

AdapterForm adapter_form(const fs::path& directory) {
  std::error_code ignored;
  if (is_gguf_path(directory)) return AdapterForm::kGguf;
  if (fs::is_regular_file(directory / detail::kNativeConfig, ignored)) return AdapterForm::kNative;
  if (fs::is_regular_file(directory / detail::kPeftConfig, ignored)) return AdapterForm::kPeft;
  return AdapterForm::kNone;
}

std::unique_ptr<Adapter> load_adapter(const fs::path& directory, AdapterTarget target) {
  return load(directory, std::move(target), nullptr);
}

std::unique_ptr<Adapter> load_adapter_without_base(const fs::path& directory, AdapterTarget target) {
  const AdapterFacts facts = load_adapter_facts(directory);
  const detail::Method* method = detail::find_method(facts.config.method);
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kUsage, directory.string(), why, "name the directory of the base");
  };
  if (method != nullptr && !method->traits.uses_sites)
    refuse(fmt::format("what method `{}` trains are parameters of the base itself", facts.config.method));
  if (facts.form == AdapterForm::kPeft && (facts.config.init == "pissa" || facts.config.init == "olora"))
    refuse(
        fmt::format("with init `{}` the factors began as parts of the base's weights, which PEFT's form "
                    "leaves to the base",
                    facts.config.init));
  return load(directory, std::move(target), nullptr);
}

std::unique_ptr<Adapter> empty_adapter(const AdapterConfig& config, AdapterTarget target) {
  AdapterBuilder builder;
  builder.strictness = detail::Strictness::kLenient;
  builder.values_follow = true;
  AdapterConfig own = with_default_targets(config, target.model_type);
  own.init_from.clear();
  return builder.build(own, std::move(target), /*seed=*/0);
}

AdapterFacts load_adapter_facts(const fs::path& directory) {
  const AdapterForm form = adapter_form(directory);
  if (form == AdapterForm::kNone) throw_no_adapter(directory);
  AdapterFacts facts = form == AdapterForm::kNative ? detail::native_facts(directory)
                       : form == AdapterForm::kPeft ? detail::peft_facts(directory)
                                                    : detail::gguf_facts(directory);
  facts.form = form;
  facts.head_outputs = head_outputs_of(facts);
  return facts;
}

AdapterConfig settings_from(const fs::path& directory) {
  AdapterFacts facts = load_adapter_facts(directory);
  if (facts.has_run_state) {
    throw Error(
        ErrorCode::kConfig, "adapter.init_from: " + directory.string(),
        fmt::format("an adapter of method {} cannot be trained on: it holds what its own run has done "
                    "(merges, rounds or a search), which a new run cannot go on from",
                    facts.config.method),
        "merge it, and train a new adapter on the merged model");
  }
  facts.config.init_from = directory.string();
  return facts.config;
}

void check_settings(const AdapterConfig& wanted, const AdapterConfig& own, ErrorList& errors) {
  AdapterConfig comparable = own;
  detail::take_training_options(wanted, comparable);
  comparable.init_from = wanted.init_from;
  compare_settings(to_json(wanted), to_json(comparable), "adapter.", wanted.init_from, errors);
}

}  // namespace msplora
