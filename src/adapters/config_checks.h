#pragma once

#include <string>
#include <vector>

#include "msplora/adapters/config.h"
#include "msplora/core/error.h"

namespace msplora::detail {

/// Adds every option of a method's own group that was set although another method is chosen.
void check_foreign_options(const AdapterConfig& config, ErrorList& errors);

/// An option that several methods share, which a method has no use for.
struct UnusedOption {
  std::string name;
  std::string hint = {};  // what acts in its place
  std::string why = {};   // "": it does nothing with the method
};

/// Adds every one of them that was set.
void refuse_options(const AdapterConfig& config, const std::vector<UnusedOption>& options, ErrorList& errors);

/// Puts them back to their defaults.
void reset_options(AdapterConfig& config, const std::vector<UnusedOption>& options);

}  // namespace msplora::detail
