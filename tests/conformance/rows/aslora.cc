#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

/// Two merges in each module, after steps 3 and 5.
MethodRow aslora(const std::string& name, const std::string& share_a = "module") {
  MethodRow row;
  row.name = name;
  row.config = small_config("aslora");
  row.config.set("aslora.share_a", share_a);
  row.config.set("aslora.start_step", 1);
  row.config.set("aslora.interval", 2);
  row.config.set("aslora.merges", 2);
  row.steps = 6;
  const auto shares = [share_a](const Site& a, const Site& b) {
    return share_a == "global" ? a.in_features == b.in_features : stack_of(a) == stack_of(b);
  };
  row.count = [shares](const std::vector<Site>& sites, const AdapterTarget&) {
    int64_t count = 0;
    for (size_t i = 0; i < sites.size(); ++i) {
      bool is_first = true;
      for (size_t k = 0; k < i; ++k) is_first = is_first && !shares(sites[k], sites[i]);
      count += 4 * ((is_first ? sites[i].in_features : 0) + sites[i].out_features);
    }
    return count;
  };
  row.scope = [shares](const TrainableTensor& tensor, const std::vector<Site>& sites) {
    std::set<std::string> scope;
    for (const Site& owner : sites) {
      if (tensor.name == owner.path + ".lora_B.weight") scope.insert(owner.path);
      if (tensor.name != owner.path + ".lora_A.weight") continue;
      for (const Site& site : sites) {
        if (shares(owner, site)) scope.insert(site.path);
      }
    }
    return scope;
  };
  return row;
}

MethodRow plain() {
  MethodRow row = aslora("aslora");
  row.refused = {
      {[](AdapterConfig& config) { config.rank = 17; }, "adapter.rank: rank 17 is larger"},
      {[](AdapterConfig& config) { config.set("aslora.merges", 4); }, "adapter.aslora.merges: 4 merges"},
      {[](AdapterConfig& config) { config.set("aslora.interval", 0); }, "adapter.aslora.interval"},
      {[](AdapterConfig& config) { config.set("aslora.share_a", "globl"); }, "did you mean `global`"},
      {[](AdapterConfig& config) { config.stagewise = true; }, "adapter.stagewise"},
      {[](AdapterConfig& config) { config.use_dora = true; }, "adapter.use_dora"},
      {[](AdapterConfig& config) { config.init = "olora"; }, "adapter.init"},
      {[](AdapterConfig& config) { config.set("prilora.beta", 0.5); }, "adapter.prilora.beta"},
      {[](AdapterConfig& config) {
         config.rank_pattern = {{"query", 2}};
       },
       "adapter.rank_pattern"},
  };
  return row;
}

MethodRow global_a() {
  MethodRow row = aslora("aslora_global_a", "global");
  row.config.target_modules = kAllShapes;
  row.config.set("aslora.pairs", "all");
  row.config.lora_plus_ratio = 4.0;
  return row;
}

MethodRow joint() {
  MethodRow row = aslora("aslora_joint");
  row.config.set("aslora.decision", "joint");
  row.config.dropout = 0.2;
  row.config.init = "gaussian";
  row.refused = {{[](AdapterConfig& config) {
                    config.target_modules_regex = R"(.*(\.0\.attention\.self\.query|\.value))";
                  },
                  "adapter.aslora.decision"}};
  return row;
}

const RegisterRows aslora_rows({plain(), global_a(), joint()});

}  // namespace
}  // namespace msplora::testing
