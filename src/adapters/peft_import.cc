// Reads LoRA and GLORA adapters in PEFT's form, ours or made elsewhere.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/files_detail.h"
#include "adapters/peft_config.h"
#include "adapters/peft_names.h"
#include "adapters/regex.h"
#include "adapters/registry.h"
#include "adapters/stored_tensors.h"
#include "msplora/core/error.h"
#include "msplora/io/safetensors.h"

namespace msplora::detail {
namespace {

namespace fs = std::filesystem;

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Module paths that have a tensor of an update in the file.
std::vector<std::string> adapted_paths(const std::map<std::string, StoredTensor>& stored) {
  std::set<std::string> paths;
  for (const auto& [name, tensor] : stored) {
    for (const std::string_view part : {".lora_A.weight", ".glora_"}) {
      if (const size_t at = name.rfind(part); at != std::string::npos) paths.insert(name.substr(0, at));
    }
  }
  return {paths.begin(), paths.end()};
}

std::map<std::string, StoredTensor> read_tensors(const fs::path& path) {
  const auto file = SafetensorsFile::open(path);
  std::map<std::string, StoredTensor> stored;
  std::vector<std::string> refused;
  for (const auto& [key, info] : file->tensors()) {
    const PeftKey parsed = parse_peft_key(key);
    if (!parsed.refusal.empty()) {
      refused.push_back(fmt::format("{}: {}", key, parsed.refusal));
    } else if (!parsed.name.empty()) {
      const auto [at, is_new] = stored.emplace(parsed.name, StoredTensor{key, file->tensor(key)});
      if (!is_new) refused.push_back(fmt::format("{}: names the same tensor as {}", key, at->second.key));
    }
  }
  if (!refused.empty()) {
    throw Error(
        ErrorCode::kModel, path.string(),
        "tensors that are not part of a plain LoRA or GLORA adapter" + list_entries("refused", refused));
  }
  return stored;
}

/// PEFT tries patterns in the order of the file, our options in sorted order. Where that differs, every site
/// gets a pattern of its own.
template <typename T>
void keep_order(const std::vector<std::pair<std::string, T>>& ordered, const std::vector<Site>& sites,
                std::map<std::string, T>& pattern, T fallback, const char* key, const std::string& where) {
  if (ordered.size() < 2) return;
  try {
    std::map<std::string, T> exact;
    bool differs = false;
    for (const Site& site : sites) {
      const T value = pattern_value(ordered, site.path, fallback);
      differs = differs || value != pattern_value(pattern, site.path, fallback);
      if (value != fallback) exact[fmt::format("^{}", escape_regex(site.path))] = value;
    }
    if (differs) pattern = std::move(exact);
  } catch (const std::invalid_argument& error) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: {}", where, key), error.what());
  }
}

void check_task(const PeftConfig& peft, const AdapterTarget& target, const std::string& where) {
  if (peft.task_type.empty() || target.task_type.empty() || peft.task_type == target.task_type) return;
  throw Error(ErrorCode::kModel, where + ": task_type",
              fmt::format("the adapter was made for {}, the model is loaded for {}", peft.task_type,
                          target.task_type));
}

fs::path tensor_file(const fs::path& directory) {
  const fs::path path = directory / kPeftTensors;
  std::error_code ignored;
  if (!fs::exists(path, ignored) && fs::exists(directory / "adapter_model.bin", ignored)) {
    throw Error(ErrorCode::kFormat, (directory / "adapter_model.bin").string(),
                "pickled PyTorch files are not read: they can run code",
                "load the adapter in PEFT and save_pretrained it with safe_serialization=True");
  }
  return path;
}

}  // namespace

std::unique_ptr<Adapter> load_peft_adapter(const fs::path& directory, AdapterTarget target) {
  const fs::path config_path = directory / kPeftConfig, tensor_path = tensor_file(directory);
  PeftConfig peft = read_peft_config(config_path);
  check_task(peft, target, config_path.string());
  const std::map<std::string, StoredTensor> stored = read_tensors(tensor_path);
  AdapterConfig& config = peft.config;
  // null means PEFT's own choice for the architecture; the tensors say what it was.
  if (!peft.has_targets) config.target_modules = adapted_paths(stored);
  keep_order(peft.rank_pattern, target.sites, config.rank_pattern, config.rank, "rank_pattern",
             config_path.string());
  keep_order(peft.alpha_pattern, target.sites, config.alpha_pattern, config.alpha, "alpha_pattern",
             config_path.string());

  std::set<std::string> site_paths;
  for (const Site& site : target.sites) site_paths.insert(site.path);
  AdapterBuilder builder{ErrorCode::kModel, config_path.string(), Strictness::kLenient,
                         /*values_follow=*/true};
  auto adapter = builder.build(config, std::move(target), /*seed=*/0);
  fill_trainable(*adapter, stored, tensor_path, [&](const std::string& name) {
    const std::string path = name.substr(0, name.rfind('.'));
    const bool is_site_bias = config.bias != "none" && ends_with(name, ".bias") && site_paths.count(path) > 0;
    return fmt::format("{}{}", kPeftPrefix, is_site_bias ? fmt::format("{}.base_layer.bias", path) : name);
  });
  AdapterBuilder::set_recorded_base(*adapter, peft.base_name);
  return adapter;
}

}  // namespace msplora::detail
