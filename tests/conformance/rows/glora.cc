#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

MethodRow glora() {
  MethodRow row;
  row.name = "glora_fixed";
  row.config = small_config("glora");
  row.config.alpha = AdapterConfig().alpha;
  row.config.set("glora.search", false);
  row.takes_dropout = false;
  row.peft_method = "glora";
  // Low-rank A, B and C, a number each for D and E.
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    int64_t count = 0;
    for (const Site& site : sites)
      count += 2 * 4 * (site.in_features + site.out_features) + 4 * (site.in_features + 1) + 2;
    return count;
  };
  row.refused = {
      {[](AdapterConfig& config) { config.set("glora.choice_a", "lorra"); }, "did you mean `lora`"},
      {[](AdapterConfig& config) { config.dropout = 0.1; }, "adapter.dropout"}};
  return row;
}

/// All choices at once, and a search over eight candidates at the end.
MethodRow glora_search() {
  MethodRow row = glora();
  row.name = "glora_search";
  row.config.rank = 3;
  row.config.set("glora.search", true);
  row.config.set("glora.population", 4);
  row.config.set("glora.parents", 2);
  row.config.set("glora.generations", 1);
  row.config.set("glora.min_parameters", 200);  // candidates that change something
  row.config.target_modules = {"query", "intermediate.dense"};
  row.steps = 12;
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    int64_t count = 0;
    for (const Site& site : sites) {
      count +=
          2 * 3 * (site.in_features + site.out_features) + 3 * (site.in_features + 1) + 2 * site.out_features;
    }
    return count;
  };
  row.refused = {
      {[](AdapterConfig& config) { config.set("glora.choice_b", "vector"); }, "adapter.glora.choice_b"},
      {[](AdapterConfig& config) { config.set("glora.parents", 5); }, "adapter.glora.parents"}};
  return row;
}

const RegisterRows glora_rows({glora(), glora_search()});

}  // namespace
}  // namespace msplora::testing
