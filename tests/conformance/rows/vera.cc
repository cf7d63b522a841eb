#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

MethodRow vera(const std::string& name, bool save_projection) {
  MethodRow row;
  row.name = name;
  row.config = small_config("vera");
  row.config.alpha = AdapterConfig().alpha;  // the vectors are the scaling
  row.config.set("vera.save_projection", save_projection);
  row.config.set("vera.projection_prng_key", 7);
  row.config.target_modules = kAllShapes;
  row.peft_method = "vera";
  // A number for each of the rank and one for each output.
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    int64_t count = 0;
    for (const Site& site : sites) count += 4 + site.out_features;
    return count;
  };
  row.refused = {
      {[](AdapterConfig& config) { config.alpha = 4.0; }, "adapter.alpha: has no effect with method vera"},
      {[](AdapterConfig& config) { config.init = "gaussian"; }, "adapter.init"},
      {[](AdapterConfig& config) { config.set("vera.projection_prng_key", -1); },
       "adapter.vera.projection_prng_key: must be"},
      {[](AdapterConfig& config) { config.set("glora.search", false); }, "adapter.glora.search"}};
  return row;
}

/// More of the frozen factors than a layer is wide.
MethodRow vera_wide() {
  MethodRow row = vera("vera_wide", true);
  row.config.rank = 40;
  row.config.target_modules = {"query", "value"};
  row.config.dropout = 0.1;
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    int64_t count = 0;
    for (const Site& site : sites) count += 40 + site.out_features;
    return count;
  };
  return row;
}

const RegisterRows vera_rows({vera("vera", true), vera("vera_drawn", false), vera_wide()});

}  // namespace
}  // namespace msplora::testing
