#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapters/method.h"
#include "msplora/adapters/adapter.h"
#include "msplora/adapters/files.h"

namespace msplora::detail {

inline constexpr const char* kNativeConfig = "adapter.json";
inline constexpr const char* kNativeTensors = "adapter.safetensors";
inline constexpr const char* kPeftConfig = "adapter_config.json";
inline constexpr const char* kPeftTensors = "adapter_model.safetensors";

/// What to do about a problem of a file that is nothing but a wrong base.
std::string made_for(const std::string& base_name);

/// The options of `from` that act in training alone, into the settings of a file.
void take_training_options(const AdapterConfig& from, AdapterConfig& to);

/// `training` may be null; else its training options replace those of the file.
std::unique_ptr<Adapter> load_native_adapter(const std::filesystem::path& directory, AdapterTarget target,
                                             const AdapterConfig* training = nullptr);
std::unique_ptr<Adapter> load_peft_adapter(const std::filesystem::path& directory, AdapterTarget target,
                                           const AdapterConfig* training = nullptr);

std::unique_ptr<Adapter> load_gguf_adapter(const std::filesystem::path& path, AdapterTarget target,
                                           const AdapterConfig* training = nullptr);

/// What adapter.json says of sharing, of the adapted layers and of its base; null where it says nothing.
struct NativePlan {
  nlohmann::json plan, sites;
  std::string model_type, base_name;
  int64_t num_layers = 0;
};
NativePlan native_plan(const std::filesystem::path& directory);

AdapterFacts native_facts(const std::filesystem::path& directory);
AdapterFacts peft_facts(const std::filesystem::path& directory);
/// Shapes under the file's own names, since a file of GGUF does not know those of a model.
AdapterFacts gguf_facts(const std::filesystem::path& path);

/// The adapter of config.init_from, to be trained on.
std::unique_ptr<Adapter> start_adapter(const AdapterConfig& config, AdapterTarget target);
/// Adds what of `tensors` (planned for a base) the files of config.init_from lack or have in another shape.
void check_start(const AdapterConfig& config, const std::vector<TensorSpec>& tensors, ErrorList& errors);

}  // namespace msplora::detail
