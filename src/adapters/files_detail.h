#pragma once

#include <filesystem>
#include <memory>

#include "msplora/adapters/adapter.h"

namespace msplora::detail {

inline constexpr const char* kNativeConfig = "adapter.json";
inline constexpr const char* kNativeTensors = "adapter.safetensors";
inline constexpr const char* kPeftConfig = "adapter_config.json";
inline constexpr const char* kPeftTensors = "adapter_model.safetensors";

std::unique_ptr<Adapter> load_native_adapter(const std::filesystem::path& directory, AdapterTarget target);
std::unique_ptr<Adapter> load_peft_adapter(const std::filesystem::path& directory, AdapterTarget target);

}  // namespace msplora::detail
