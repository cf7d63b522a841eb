#include "conformance/method_row.h"

namespace msplora::testing {
namespace {

constexpr int64_t kMidGroups = 2;

/// Level 0 acts in every layer, the last in its own, the others in the group of their owner.
std::set<std::string> published_scope(const TrainableTensor& tensor, const std::vector<Site>& sites,
                                      int64_t levels, const std::vector<int64_t>& groups) {
  const Site* owner = nullptr;
  for (const Site& site : sites) {
    if (tensor.name.starts_with(site.path + ".")) owner = &site;
  }
  std::set<std::string> scope;
  if (owner == nullptr) return scope;
  for (const Site& site : sites) {
    if (stack_of(site) != stack_of(*owner)) continue;
    const auto group_of = [&](int64_t layer) { return layer < 0 ? 0 : groups[static_cast<size_t>(layer)]; };
    const bool same_group = group_of(site.layer) == group_of(owner->layer);
    const bool acts = tensor.level == 0            ? true
                      : tensor.level == levels - 1 ? site.layer == owner->layer
                                                   : same_group;
    if (acts) scope.insert(site.path);
  }
  return scope;
}

/// Per stack of L layers: one global pair, kMidGroups pairs of every middle level, L of the last.
int64_t pyramid_count(const std::vector<Site>& sites, int64_t num_layers, const std::vector<int64_t>& ranks) {
  std::map<std::string, int64_t> width;
  for (const Site& site : sites) width[stack_of(site)] = site.in_features + site.out_features;
  int64_t per_width = ranks.front();
  for (size_t k = 1; k + 1 < ranks.size(); ++k) per_width += kMidGroups * ranks[k];
  if (ranks.size() > 1) per_width += num_layers * ranks.back();
  int64_t count = 0;
  for (const auto& [stack, w] : width) count += w * per_width;
  return count;
}

MethodRow pyramid(const std::string& name, const std::vector<int64_t>& ranks) {
  MethodRow row;
  row.name = name;
  row.config = small_config("msplora");
  row.config.rank = ranks.front();
  row.config.levels = static_cast<int64_t>(ranks.size());
  if (ranks.size() > 2) row.config.mid_groups = kMidGroups;
  row.count = [ranks](const std::vector<Site>& sites, const AdapterTarget& target) {
    return pyramid_count(sites, target.num_layers, ranks);
  };
  row.scope = [levels = row.config.levels](const TrainableTensor& tensor, const std::vector<Site>& sites) {
    return published_scope(tensor, sites, levels, /*groups=*/{0, 0, 1, 1});
  };
  row.refused = {
      {[](AdapterConfig& config) { config.levels = 9; }, "adapter.levels"},
      {[](AdapterConfig& config) {
         config.layer_groups = {0, 1};
       },
       "adapter.layer_groups"},
      {[](AdapterConfig& config) { config.alphas = {1, 2, 3, 4, 5, 6}; }, "adapter.alphas"},
      {[](AdapterConfig& config) { config.alphas.assign(static_cast<size_t>(config.levels), 1.0); },
       "adapter.alpha: has no effect beside adapter.alphas"},
      {[](AdapterConfig& config) {
         config.dropout = 0.1;
         config.dropouts.assign(static_cast<size_t>(config.levels), 0.1);
       },
       "adapter.dropout: has no effect beside adapter.dropouts"},
      {[](AdapterConfig& config) {
         config.rank = 4;
         config.ranks.assign(static_cast<size_t>(config.levels), 2);
       },
       "adapter.rank: has no effect beside adapter.ranks"},
      {[](AdapterConfig& config) { config.mid_groups = 9; }, "adapter.mid_groups"},
      {[](AdapterConfig& config) {
         config.rank_pattern = {{"query", 2}};
       },
       "adapter.rank_pattern"},
      {[](AdapterConfig& config) { config.sharing = "publishd"; }, "did you mean `published`"},
      {[](AdapterConfig& config) { config.stage_fractions = {0.5}; }, "adapter.stage_fractions"},
  };
  return row;
}

MethodRow owner_only() {
  MethodRow row = pyramid("msplora_owner_only", {4, 2, 1});
  row.config.sharing = "owner_only";
  row.scope = {};
  return row;
}

MethodRow stagewise() {
  MethodRow row = pyramid("msplora_stagewise", {4, 2, 1});
  row.config.stagewise = true;
  row.config.dropout = 0.1;
  row.steps = 6;
  return row;
}

MethodRow uneven_stages() {
  MethodRow row = pyramid("msplora_uneven_stages", {4, 2});
  row.config.stagewise = true;
  row.config.stage_fractions = {0.25, 0.75};
  row.steps = 8;
  return row;
}

MethodRow msplora_all_shapes() {
  MethodRow row = pyramid("msplora_all_shapes", {6, 5, 2});
  row.config.target_modules = kAllShapes;
  row.config.rank = 8;
  row.config.levels = 3;
  row.config.ranks = {6, 5, 2};
  row.config.alpha = AdapterConfig().alpha;
  row.config.alphas = {3, 10, 1};
  row.config.dropouts = {0.1, 0.0, 0.2};
  row.config.bias = "all";
  row.takes_dropout = false;
  row.refused.clear();
  return row;
}

/// Layers that share are no neighbours, and ranks rise.
MethodRow given_groups() {
  MethodRow row = pyramid("msplora_given_groups", {1, 2, 4});
  row.config.rank = 8;
  row.config.ranks = {1, 2, 4};
  row.config.mid_groups = AdapterConfig().mid_groups;
  row.config.layer_groups = {0, 1, 1, 0};
  row.scope = [](const TrainableTensor& tensor, const std::vector<Site>& sites) {
    return published_scope(tensor, sites, /*levels=*/3, {0, 1, 1, 0});
  };
  row.refused.clear();
  return row;
}

const RegisterRows msplora_rows({pyramid("msplora", {4, 2, 1}), pyramid("msplora_1_level", {4}),
                                 pyramid("msplora_2_levels", {4, 2}),
                                 pyramid("msplora_4_levels", {8, 4, 2, 1}), owner_only(), stagewise(),
                                 uneven_stages(), given_groups(), msplora_all_shapes()});

}  // namespace
}  // namespace msplora::testing
