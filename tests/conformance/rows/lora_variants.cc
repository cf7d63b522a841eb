// Initialisations, DoRA and LoRA+ of method lora.
#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

MethodRow lora_with(const std::string& name, const std::string& init) {
  MethodRow row;
  row.name = name;
  row.config = small_config("lora");
  row.config.init = init;
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) { return lora_count(sites, 4); };
  return row;
}

MethodRow orthogonal() {
  MethodRow row = lora_with("lora_orthogonal", "orthogonal");
  row.starts_at_base = false;  // B A is 0 up to rounding alone
  row.refused = {{[](AdapterConfig& config) { config.rank = 3; }, "rank 3 is odd"}};
  return row;
}

MethodRow dora(const std::string& name, const std::string& init) {
  MethodRow row = lora_with(name, init);
  row.config.use_dora = true;
  row.config.lora_plus_ratio = 2.0;
  row.config.bias = "lora_only";
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    int64_t count = 0;
    for (const Site& site : sites) count += 4 * (site.in_features + site.out_features) + site.out_features;
    return count;
  };
  row.excused = {{"GradientsAgreeWithFiniteDifferences",
                  "DoRA's gradient takes the norms for constants, which "
                  "differences do not"}};
  return row;
}

MethodRow dora_all_shapes() {
  MethodRow row = dora("lora_dora_all_shapes", "default");
  row.config.target_modules = kAllShapes;
  row.config.dropout = 0.2;
  row.config.use_rslora = true;
  return row;
}

MethodRow pissa_all_shapes() {
  MethodRow row = lora_with("lora_pissa", "pissa");
  row.config.target_modules = kAllShapes;
  row.config.use_rslora = true;
  return row;
}

const RegisterRows lora_variants_rows({pissa_all_shapes(), lora_with("lora_olora", "olora"), orthogonal(),
                                       dora("lora_dora", "default"), dora("lora_dora_pissa", "pissa"),
                                       dora_all_shapes()});

}  // namespace
}  // namespace msplora::testing
