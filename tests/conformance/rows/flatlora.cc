#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

MethodRow flatlora(const std::string& name, const std::string& schedule) {
  MethodRow row;
  row.name = name;
  row.config = small_config("flatlora");
  row.config.set("flatlora.schedule", schedule);
  row.config.set("flatlora.rho", 0.1);
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) { return lora_count(sites, 4); };
  row.refused = {
      {[](AdapterConfig& config) { config.set("flatlora.rho", -1.0); }, "adapter.flatlora.rho"},
      {[](AdapterConfig& config) { config.rank = 17; }, "adapter.rank: rank 17 is larger"},
      {[](AdapterConfig& config) { config.set("lorapro.mode", "efficient"); }, "adapter.lorapro.mode"}};
  return row;
}

const RegisterRows flatlora_rows({flatlora("flatlora", "cosine"), flatlora("flatlora_constant", "constant")});

}  // namespace
}  // namespace msplora::testing
