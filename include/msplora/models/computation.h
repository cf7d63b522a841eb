#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/models/architecture.h"

namespace msplora {

/// What a model computes with beside its weights, and what their shapes do not say: heads, activation,
/// epsilons of norms, angles of rotary positions, windows and the like, by the names of config.json where it
/// has one. Values that are the same in all layers stand once. Two files of one model (config.json, GGUF)
/// give the same; dropout and types of numbers are not part of it.
nlohmann::json computation_of(const Architecture& architecture);

/// Where two of them differ, "rope_theta: 10000.0 there, 500000.0 here" each. Rounding does not count, and
/// neither does a window beyond the tokens that both models take, nor what only one of them says.
std::vector<std::string> computation_differences(const nlohmann::json& there, const nlohmann::json& here);

}  // namespace msplora
