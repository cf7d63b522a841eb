#include "msplora/adapters/planning.h"
#include "msplora/models/model_config.h"

namespace msplora {
namespace {

/// Options of one method are a struct of their own, named after it.
struct ResetOtherMethods {
  const std::string& method;

  template <typename T, typename... Rest>
  void operator()(const char* name, T& value, const Rest&...) {
    if constexpr (requires { value.visit([](const char*, auto&, const auto&...) {}); }) {
      if (name != method) value = T{};
    }
  }
};

}  // namespace

AdapterConfig with_default_targets(AdapterConfig config, const std::string& model_type) {
  if (config.target_modules.empty() && !config.target_modules_regex)
    config.target_modules = default_target_modules(model_type);
  return config;
}

AdapterConfig config_for_method(const AdapterConfig& shared, const std::string& method) {
  AdapterConfig config = shared;
  config.method = method;
  config.visit(ResetOtherMethods{method});
  const AdapterConfig defaults;
  if (method != "msplora") {
    config.levels = defaults.levels;
    config.ranks = defaults.ranks;
    config.alphas = defaults.alphas;
    config.dropouts = defaults.dropouts;
    config.mid_groups = defaults.mid_groups;
    config.sharing = defaults.sharing;
    config.stagewise = defaults.stagewise;
    config.stage_fractions = defaults.stage_fractions;
  }
  if (method != "lora") {
    config.rank_pattern = defaults.rank_pattern;
    config.alpha_pattern = defaults.alpha_pattern;
  }
  return config;
}

}  // namespace msplora
