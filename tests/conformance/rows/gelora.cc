#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

MethodRow gelora() {
  MethodRow row;
  row.name = "gelora";
  row.config = small_config("gelora");
  row.config.rank = AdapterConfig().rank;
  row.config.alpha = AdapterConfig().alpha;
  row.config.set("gelora.layer_ranks", {1, 3, 2, 4});
  row.anywhere = {"query", "value"};
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    const std::vector<int64_t> ranks = {1, 3, 2, 4};
    int64_t count = 0;
    for (const Site& site : sites)
      count += ranks.at(static_cast<size_t>(site.layer)) * (site.in_features + site.out_features);
    return count;
  };
  row.refused = {{[](AdapterConfig& config) {
                    config.set("gelora.layer_ranks", {1, 2});
                  },
                  "adapter.gelora.layer_ranks"},
                 {[](AdapterConfig& config) { config.rank = 4; }, "adapter.rank"}};
  return row;
}

const RegisterRows gelora_rows({gelora()});

}  // namespace
}  // namespace msplora::testing
