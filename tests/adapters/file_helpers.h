#pragma once

#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/file.h"
#include "msplora/io/safetensors.h"

namespace msplora::testing {

using nlohmann::json;

inline const std::string kBlock = "roberta.encoder.layer.";
inline const std::string kPrefix = "base_model.model.";

inline AdapterConfig config_of(const std::string& method) {
  AdapterConfig config;
  config.method = method;
  config.rank = 8;
  config.alpha = 12.0;
  return config_for_method(config, method);
}

inline std::vector<at::Tensor> deltas(const Adapter& adapter) {
  std::map<std::string, at::Tensor> by_path;
  for (const Site& site : adapter.target().sites) {
    by_path[site.path] = at::zeros({site.out_features, site.in_features});
  }
  for (size_t i = 0; i < adapter.sites().size(); ++i)
    by_path[adapter.sites()[i].path] = adapter.change_of(i).weight;
  std::vector<at::Tensor> result;
  for (auto& [path, delta] : by_path) result.push_back(delta);
  return result;
}

inline void expect_same_update(const Adapter& a, const Adapter& b) {
  const auto left = deltas(a), right = deltas(b);
  ASSERT_EQ(left.size(), right.size());
  double largest = 0;
  for (size_t i = 0; i < left.size(); ++i) {
    const double size = left[i].abs().max().item<double>();
    EXPECT_LT((left[i] - right[i]).abs().max().item<double>(), 1e-6 * std::max(1.0, size));
    largest = std::max(largest, size);
  }
  EXPECT_GT(largest, 0.01);
}

inline void expect_same_base_parameters(const FakeModel& a, const FakeModel& b) {
  for (const Parameter& parameter : a.parameters()) {
    EXPECT_TRUE(at::equal(parameter.values(), b.parameter(parameter.name))) << parameter.name;
  }
}

inline json read_json(const std::filesystem::path& path) {
  return json::parse(read_file(path));
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path) << text;
}

/// Writes the tensors of a safetensors file again with a change.
template <typename Change>
void rewrite(const std::filesystem::path& path, Change&& change) {
  std::map<std::string, at::Tensor> tensors;
  {
    const auto file = SafetensorsFile::open(path);
    for (const auto& [name, info] : file->tensors()) tensors[name] = file->tensor(name).clone();
  }
  change(tensors);
  std::vector<NamedTensor> list;
  for (const auto& [name, tensor] : tensors) list.push_back({name, tensor});
  write_safetensors(path, list, {{"format", "pt"}});
}

template <typename Change>
void rewrite_json(const std::filesystem::path& path, Change&& change) {
  json file = read_json(path);
  change(file);
  write_text(path, file.dump());
}

/// Saves an adapter of `config` on a fresh model with drawn numbers.
inline std::unique_ptr<Adapter> make_saved(FakeModel& model, const AdapterConfig& config,
                                           const std::filesystem::path& directory, bool peft) {
  auto adapter = create_adapter(config, model.target(), 3);
  randomize(*adapter);
  peft ? save_peft_adapter(*adapter, directory) : save_native_adapter(*adapter, directory);
  return adapter;
}

inline std::vector<AdapterConfig> all_kinds() {
  std::vector<AdapterConfig> configs = {config_of("msplora"), config_of("lora")};
  AdapterConfig config = config_of("msplora");
  config.sharing = "owner_only";
  configs.push_back(config);
  config.levels = 1;  // eleven layers without any update
  configs.push_back(config);
  config = config_of("msplora");
  config.ranks = {6, 5};
  config.alpha = AdapterConfig().alpha;
  config.alphas = {3, 10};
  config.dropouts = {0.1, 0.2};
  config.target_modules = {"all-linear"};
  config.bias = "all";
  configs.push_back(config);
  config = config_of("lora");
  config.rank_pattern = {{"query", 4}, {"layer.1.attention.self.value", 2}};
  config.alpha_pattern = {{"value", 3.5}};
  config.use_rslora = true;
  config.bias = "lora_only";
  config.modules_to_save = {"layer.2.output"};
  configs.push_back(config);
  config = config_of("lora");
  config.target_modules_regex = R"(.*\.[0-4]\.attention\.self\.(query|key))";
  config.exclude_modules = {"layer.1.attention.self.key"};
  configs.push_back(config);
  config = config_of("msplora");
  config.layers_to_transform = {1, 2, 3, 7};
  config.init = "gaussian";
  configs.push_back(config);
  return configs;
}

}  // namespace msplora::testing
