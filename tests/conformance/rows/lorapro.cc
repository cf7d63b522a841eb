#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

MethodRow lorapro(const std::string& name, const std::string& mode) {
  MethodRow row;
  row.name = name;
  row.config = small_config("lorapro");
  row.config.set("lorapro.mode", mode);
  row.takes_dropout = false;
  row.steps = 3;
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) { return lora_count(sites, 4); };
  row.refused = {
      {[](AdapterConfig& config) { config.dropout = 0.1; }, "dropout"},
      {[](AdapterConfig& config) { config.set("lorapro.split", "sylvster"); }, "did you mean `sylvester`"}};
  return row;
}

const RegisterRows lorapro_rows({lorapro("lorapro", "full"), lorapro("lorapro_efficient", "efficient")});

}  // namespace
}  // namespace msplora::testing
