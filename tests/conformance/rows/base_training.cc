#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

/// The baselines that train the base itself: `wanted` says which of its parameters.
MethodRow base_training(const std::string& method, bool (*wanted)(const std::string&)) {
  MethodRow row;
  row.name = method;
  row.config = config_without_update(method);
  row.takes_dropout = false;
  row.no_peft_form = "changes parameters of the base themselves";
  row.count = [wanted](const std::vector<Site>&, const AdapterTarget& target) {
    int64_t count = 0;
    for (const Parameter& parameter : target.parameters) {
      const bool is_head = parameter.name.starts_with("classifier.");
      if (!is_head && wanted(parameter.name)) count += parameter.numel();
    }
    return count;
  };
  row.refused = settings_of_updates(method);
  row.refused.push_back({[](AdapterConfig& config) { config.bias = "all"; }, "trains every bias already"});
  row.refused.push_back({[](AdapterConfig& config) { config.bias = "lora_only"; }, "adapter.bias"});
  return row;
}

const RegisterRows base_training_rows({
    base_training("full", [](const std::string&) { return true; }),
    base_training("bitfit", [](const std::string& name) { return name.ends_with(".bias"); }),
});

}  // namespace
}  // namespace msplora::testing
