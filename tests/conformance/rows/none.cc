#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

MethodRow none(const std::string& name) {
  MethodRow row;
  row.name = name;
  row.config = config_without_update("none");
  row.takes_dropout = false;
  row.no_peft_form = "no low-rank update";
  row.count = [](const std::vector<Site>&, const AdapterTarget&) -> int64_t { return 0; };
  row.refused = settings_of_updates("none");
  row.refused.push_back({[](AdapterConfig& config) { config.bias = "lora_only"; }, "adapter.bias"});
  return row;
}

MethodRow with_biases() {
  MethodRow row = none("none_with_biases");
  row.config.bias = "all";
  return row;
}

const RegisterRows none_rows({none("none"), with_biases()});

}  // namespace
}  // namespace msplora::testing
