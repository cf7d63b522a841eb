#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

MethodRow ttlora(const std::string& name, const std::string& init) {
  MethodRow row;
  row.name = name;
  row.config = small_config("ttlora");
  row.config.set("ttlora.init", init);
  row.starts_at_base = init == "zero_last";
  // 16 x 16 is a train of two cores.
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    return static_cast<int64_t>(sites.size()) * 4 * (16 + 16);
  };
  row.refused = {{[](AdapterConfig& config) { config.set("ttlora.init", "zero"); }, "adapter.ttlora.init"},
                 {[](AdapterConfig& config) {
                    config.set("ttlora.shape", {5, 16});
                  },
                  "adapter.ttlora.shape"},
                 {[](AdapterConfig& config) { config.stagewise = true; }, "adapter.stagewise"}};
  return row;
}

const RegisterRows ttlora_rows({ttlora("ttlora", "direct"), ttlora("ttlora_zero_last", "zero_last")});

}  // namespace
}  // namespace msplora::testing
