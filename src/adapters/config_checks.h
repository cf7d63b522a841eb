#pragma once

#include <string>
#include <vector>

#include "msplora/adapters/config.h"
#include "msplora/core/error.h"

namespace msplora::detail {

/// Adds every option of a method's own group that was set although another method is chosen.
void check_foreign_options(const AdapterConfig& config, ErrorList& errors);

/// Adds every option named that was set, for options outside such groups which the method has no use for.
void refuse_options(const AdapterConfig& config, const std::vector<std::string>& names, ErrorList& errors);

}  // namespace msplora::detail
