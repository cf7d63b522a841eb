#pragma once

#include <nlohmann/json.hpp>

#include "models/config_reader.h"
#include "msplora/models/model_config.h"

/// The keys of config.json that name the classes of a head.
namespace msplora::detail {

void read_labels(ConfigReader& reader, ModelConfig& config);
void write_labels(const ModelConfig& config, nlohmann::json& out);

}  // namespace msplora::detail
