#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

MethodRow lora(const std::string& name) {
  MethodRow row;
  row.name = name;
  row.config = small_config("lora");
  row.count = [rank = row.config.rank](const std::vector<Site>& sites, const AdapterTarget&) {
    int64_t count = 0;
    for (const Site& site : sites) count += rank * (site.in_features + site.out_features);
    return count;
  };
  row.refused = {
      {[](AdapterConfig& config) { config.rank = 17; }, "adapter.rank: rank 17 is larger"},
      {[](AdapterConfig& config) { config.stagewise = true; }, "adapter.stagewise"},
      {[](AdapterConfig& config) {
         config.ranks = {4, 2};
       },
       "adapter.ranks"},
      {[](AdapterConfig& config) {
         config.rank_pattern = {{"kwery", 2}};
       },
       "kwery"},
      {[](AdapterConfig& config) {
         config.alpha_pattern = {{"(", 2.0}};
       },
       "adapter.alpha_pattern"},
      {[](AdapterConfig& config) { config.target_modules = {"qurey"}; }, "nearest to `qurey` is `query`"},
  };
  return row;
}

MethodRow rank_stabilised() {
  MethodRow row = lora("lora_rslora");
  row.config.use_rslora = true;
  row.config.init = "gaussian";
  return row;
}

MethodRow with_dropout() {
  MethodRow row = lora("lora_dropout");
  row.config.dropout = 0.3;
  row.config.bias = "lora_only";
  return row;
}

MethodRow lora_all_shapes() {
  MethodRow row = lora("lora_all_shapes");
  row.config.target_modules = kAllShapes;
  row.config.bias = "all";
  row.config.rank_pattern = {{"intermediate.dense", 2}};
  row.config.alpha_pattern = {{"value", 3.0}};
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    int64_t count = 0;
    for (const Site& site : sites) {
      count += (site.path.ends_with("intermediate.dense") ? 2 : 4) * (site.in_features + site.out_features);
    }
    return count;
  };
  row.refused.clear();
  return row;
}

const RegisterRows lora_rows({lora("lora"), rank_stabilised(), with_dropout(), lora_all_shapes()});

}  // namespace
}  // namespace msplora::testing
