// LoRTA, TT-LoRA and GLoRA.
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

const RegisterRows tensor_methods_rows({lorta(), ttlora("ttlora", "direct"),
                                        ttlora("ttlora_zero_last", "zero_last"), glora(), glora_search()});

}  // namespace
}  // namespace msplora::testing
