#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "msplora/adapters/config.h"

namespace msplora::detail {

/// adapter_config.json of a LoRA or GLORA adapter.
struct PeftConfig {
  AdapterConfig config;  // method lora or glora; patterns as a map, see below
  bool has_targets = false;
  std::string task_type;
  std::string base_name;
  // In the order of the file, which is the order PEFT tries them in.
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
};

/// Absent keys have PEFT's defaults. Throws Error{kFormat} listing wrong types, Error{kModel} listing
/// together everything that makes the adapter something else than LoRA or DoRA (another peft_type, ...).
PeftConfig read_peft_config(const std::filesystem::path& path);

/// The key of adapter_config.json that one of our options stands under.
std::string peft_key(const PeftConfig& peft, const std::string& option);

/// `value` as PEFT writes it: whole numbers without a fraction.
nlohmann::json peft_number(double value);

}  // namespace msplora::detail
