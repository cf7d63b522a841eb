#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

const std::vector<std::string> kAttention = {"query", "key", "value", "attention.output.dense"};

MethodRow lorta() {
  MethodRow row;
  row.name = "lorta";
  row.config = small_config("lorta");
  row.config.alpha = AdapterConfig().alpha;  // lorta has one of its own
  row.config.set("lorta.alpha", 6.0);
  row.config.target_modules = row.anywhere = kAttention;
  // r (hidden + head size + heads + layers + matrices)
  row.count = [](const std::vector<Site>&, const AdapterTarget&) {
    return int64_t{4 * (16 + 8 + 2 + 4 + 4)};
  };
  row.scope = [](const TrainableTensor&, const std::vector<Site>& sites) {
    std::set<std::string> all;
    for (const Site& site : sites) all.insert(site.path);
    return all;
  };
  row.refused = {
      {[](AdapterConfig& config) { config.set("lorta.orientation", "semantik"); }, "did you mean `semantic`"},
      {[](AdapterConfig& config) { config.target_modules = {"intermediate.dense"}; }, "lorta"},
      {[](AdapterConfig& config) { config.alpha = 3.0; }, "adapter.alpha"}};
  return row;
}

const RegisterRows lorta_rows({lorta()});

}  // namespace
}  // namespace msplora::testing
