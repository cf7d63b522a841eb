#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

/// Three rounds in all four layers.
MethodRow xgblora() {
  MethodRow row;
  row.name = "xgblora";
  row.config = small_config("xgblora");
  row.config.set("xgblora.rounds", 3);
  row.config.set("xgblora.layers_per_round", 4);
  row.config.set("xgblora.booster_rank", 2);
  row.steps = 9;
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) { return lora_count(sites, 2); };
  row.refused = {
      {[](AdapterConfig& config) { config.set("xgblora.layers_per_round", 5); }, "layers_per_round"},
      {[](AdapterConfig& config) { config.set("xgblora.scaling", 2.0); }, "adapter.xgblora.scaling"},
      {[](AdapterConfig& config) { config.stagewise = true; }, "adapter.stagewise"}};
  return row;
}

/// Two layers of four in a round, so that every tensor rests for some rounds; eight rounds in 24 steps.
MethodRow xgblora_subset() {
  MethodRow row = xgblora();
  row.name = "xgblora_subset";
  row.config.set("xgblora.rounds", 8);
  row.config.set("xgblora.layers_per_round", 2);
  row.config.set("xgblora.booster_rank", 1);
  row.config.set("xgblora.penalty", 1e-3);
  row.config.set("xgblora.seed", 3);
  row.config.dropout = 0.1;
  row.steps = 24;
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) { return lora_count(sites, 1); };
  // The first round of this seed has the layers 0 and 2; factors of the others do not act.
  row.scope = [](const TrainableTensor& tensor, const std::vector<Site>& sites) {
    std::set<std::string> scope;
    for (const Site& site : sites) {
      if (tensor.name.starts_with(site.path + ".") && site.layer % 2 == 0) scope.insert(site.path);
    }
    return scope;
  };
  return row;
}

const RegisterRows xgblora_rows({xgblora(), xgblora_subset()});

}  // namespace
}  // namespace msplora::testing
