#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

/// Ranks of the four layers; -1 stands for modules outside them.
int64_t total(const std::vector<Site>& sites, const std::map<int64_t, int64_t>& ranks) {
  int64_t count = 0;
  for (const Site& site : sites) count += ranks.at(site.layer) * (site.in_features + site.out_features);
  return count;
}

MethodRow prilora() {
  MethodRow row;
  row.name = "prilora";
  row.config = small_config("prilora");
  row.config.set("prilora.prune_every", 2);
  row.steps = 5;
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    return total(sites, {{0, 2}, {1, 3}, {2, 5}, {3, 6}, {-1, 4}});
  };
  row.refused = {
      {[](AdapterConfig& config) { config.set("prilora.last_rank", 17); }, "adapter.prilora"},
      {[](AdapterConfig& config) { config.set("prilora.first_rank", 8); }, "8 leaves 0 for the other end"},
      {[](AdapterConfig& config) { config.set("prilora.prune_fraction", 1.0); },
       "adapter.prilora.prune_fraction"},
      {[](AdapterConfig& config) { config.set("prilora.scaling", "meen"); }, "did you mean `mean`"},
      {[](AdapterConfig& config) { config.set("aslora.merges", 1); }, "adapter.aslora.merges"},
      {[](AdapterConfig& config) {
         config.alphas = {1, 2};
       },
       "adapter.alphas"},
      {[](AdapterConfig& config) {
         config.alpha_pattern = {{"query", 2}};
       },
       "adapter.alpha_pattern"},
  };
  return row;
}

MethodRow falling() {
  MethodRow row = prilora();
  row.name = "prilora_falling";
  row.config.target_modules = kAllShapes;
  row.config.set("prilora.first_rank", 7);
  row.config.set("prilora.last_rank", 1);
  row.config.set("prilora.scaling", "mean");
  row.config.set("prilora.final_prune", true);
  row.config.use_rslora = true;
  row.config.dropout = 0.2;
  row.config.lora_plus_ratio = 8.0;
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) {
    return total(sites, {{0, 7}, {1, 5}, {2, 3}, {3, 1}, {-1, 4}});
  };
  row.refused.clear();
  return row;
}

const RegisterRows prilora_rows({prilora(), falling()});

}  // namespace
}  // namespace msplora::testing
