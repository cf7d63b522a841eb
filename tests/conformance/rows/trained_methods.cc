// Flat-LoRA, LoRA-Pro, XGBLoRA and GeLoRA: LoRA's update, trained in other ways.
#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

int64_t lora_count(const std::vector<Site>& sites, int64_t rank) {
  int64_t count = 0;
  for (const Site& site : sites) count += rank * (site.in_features + site.out_features);
  return count;
}

MethodRow flatlora(const std::string& name, const std::string& schedule) {
  MethodRow row;
  row.name = name;
  row.config = small_config("flatlora");
  row.config.set("flatlora.schedule", schedule);
  row.config.set("flatlora.rho", 0.1);
  row.count = [](const std::vector<Site>& sites, const AdapterTarget&) { return lora_count(sites, 4); };
  row.refused = {
      {[](AdapterConfig& config) { config.set("flatlora.rho", -1.0); }, "adapter.flatlora.rho"},
      {[](AdapterConfig& config) { config.rank = 17; }, "adapter.rank: rank 17 is larger"},
      {[](AdapterConfig& config) { config.set("lorapro.mode", "efficient"); }, "adapter.lorapro.mode"}};
  return row;
}

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

const RegisterRows trained_methods_rows(
    {flatlora("flatlora", "cosine"), flatlora("flatlora_constant", "constant"), lorapro("lorapro", "full"),
     lorapro("lorapro_efficient", "efficient"), xgblora(), xgblora_subset(), gelora()});

}  // namespace
}  // namespace msplora::testing
