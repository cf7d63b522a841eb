#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/adapters/config.h"
#include "msplora/core/error.h"

namespace msplora::detail {

/// Every option, as written into native adapter files.
nlohmann::json config_to_json(const AdapterConfig& config);

/// Options absent from `json` keep their defaults. Throws Error{kFormat} listing unknown keys and wrong
/// types.
AdapterConfig config_from_json(const nlohmann::json& json, const std::string& where);

/// Adds every option whose value lies outside its declared range or choices.
void check_ranges(const AdapterConfig& config, ErrorList& errors);

/// Adds every option of a method's own group that was set although another method is chosen.
void check_foreign_options(const AdapterConfig& config, ErrorList& errors);

/// Adds every option named that was set, for options outside such groups which the method has no use for.
void refuse_options(const AdapterConfig& config, const std::vector<std::string>& names, ErrorList& errors);

}  // namespace msplora::detail
