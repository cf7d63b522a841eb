#include "msplora/adapters/config.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapters/config_checks.h"
#include "msplora/core/option_io.h"

namespace msplora {

using nlohmann::json;

AdapterConfig& AdapterConfig::set(const std::string& option, const json& value) {
  set_option(*this, option, value, "adapter");
  return *this;
}

json AdapterConfig::get(const std::string& option) const {
  json value = to_json(*this);
  for (size_t begin = 0; begin <= option.size();) {
    const size_t end = std::min(option.find('.', begin), option.size());
    const std::string key = option.substr(begin, end - begin);
    if (!value.is_object() || !value.contains(key))
      throw Error(ErrorCode::kConfig, "adapter." + option, "unknown option");
    value = json(value[key]);
    begin = end + 1;
  }
  return value;
}

namespace detail {

void check_foreign_options(const AdapterConfig& config, ErrorList& errors) {
  const AdapterConfig plain;
  for (size_t i = 0; i < plain.groups.size(); ++i) {
    const std::string& method = plain.groups[i].first;
    if (method == config.method) continue;
    const json set = to_json(config.groups[i].second), defaults = to_json(plain.groups[i].second);
    for (const auto& [name, value] : set.items()) {
      if (value == defaults[name]) continue;
      errors.add(fmt::format("adapter.{}.{}", method, name),
                 fmt::format("belongs to method {}; {} would ignore it", method, config.method));
    }
  }
}

void refuse_options(const AdapterConfig& config, const std::vector<UnusedOption>& options,
                    ErrorList& errors) {
  const json set = to_json(config), defaults = to_json(AdapterConfig());
  for (const UnusedOption& option : options) {
    if (set.at(option.name) == defaults.at(option.name)) continue;
    errors.add(fmt::format("adapter.{}", option.name),
               option.why.empty() ? fmt::format("has no effect with method {}", config.method) : option.why,
               option.hint);
  }
}

void reset_options(AdapterConfig& config, const std::vector<UnusedOption>& options) {
  const json defaults = to_json(AdapterConfig());
  for (const UnusedOption& option : options) config.set(option.name, defaults.at(option.name));
}

}  // namespace detail
}  // namespace msplora
