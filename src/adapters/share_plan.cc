#include "adapters/share_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace msplora::detail {
namespace {

/// The path with its layer index replaced, so that the layers of one stack have one name. Sites outside the
/// blocks, or whose path does not show the index, are a stack of their own.
std::string stack_name(const Site& site) {
  if (site.layer < 0) return site.path;
  const std::string digits = std::to_string(site.layer);
  const size_t at = fmt::format(".{}", site.path).find(fmt::format(".{}.", digits));
  if (at == std::string::npos) return site.path;
  // With a dot put in front of the path, the place of the dot is that of the digits in the path itself.
  return fmt::format("{}*{}", site.path.substr(0, at), site.path.substr(at + digits.size()));
}

SharePlan plan_from_keys(const std::vector<Site>& sites, int64_t levels,
                         const std::vector<std::vector<std::string>>& keys) {
  std::map<std::pair<int64_t, std::string>, ShareGroup> found;
  for (size_t site = 0; site < sites.size(); ++site) {
    for (int64_t level = 0; level < levels; ++level) {
      ShareGroup& group = found[{level, keys[site][static_cast<size_t>(level)]}];
      group.level = level;
      if (group.members.empty() || sites[site].layer < sites[group.owner].layer) group.owner = site;
      group.members.push_back(site);
    }
  }
  SharePlan plan;
  plan.levels = levels;
  for (auto& [key, group] : found) plan.groups.push_back(std::move(group));
  std::sort(plan.groups.begin(), plan.groups.end(), [](const ShareGroup& a, const ShareGroup& b) {
    return std::tie(a.owner, a.level) < std::tie(b.owner, b.level);
  });
  plan.group_of.assign(sites.size(), std::vector<size_t>(static_cast<size_t>(levels)));
  for (size_t index = 0; index < plan.groups.size(); ++index) {
    for (const size_t site : plan.groups[index].members) {
      plan.group_of[site][static_cast<size_t>(plan.groups[index].level)] = index;
    }
  }
  return plan;
}

}  // namespace

std::string stack_key(const Site& site) {
  return fmt::format("{} {}x{}", stack_name(site), site.out_features, site.in_features);
}

std::vector<std::vector<int64_t>> SharePlan::owner_layers(const std::vector<Site>& sites) const {
  std::vector<std::set<int64_t>> layers(static_cast<size_t>(levels));
  for (const ShareGroup& group : groups)
    layers[static_cast<size_t>(group.level)].insert(sites[group.owner].layer);
  std::vector<std::vector<int64_t>> result;
  for (const auto& level : layers) result.emplace_back(level.begin(), level.end());
  return result;
}

SharePlan separate_plan(const std::vector<Site>& sites) {
  std::vector<std::vector<std::string>> keys;
  for (const Site& site : sites) keys.push_back({site.path});
  return plan_from_keys(sites, 1, keys);
}

SharePlan pyramid_plan(const std::vector<Site>& sites, int64_t num_layers, int64_t levels, int64_t mid_groups,
                       const std::vector<int64_t>& layer_groups) {
  for (const Site& site : sites) num_layers = std::max(num_layers, site.layer + 1);
  const auto group_at = [&](int64_t layer, int64_t level) {
    if (level == 0 || layer < 0) return int64_t{0};
    if (level == levels - 1) return layer;
    return layer_groups.empty() ? std::min(mid_groups, num_layers) * layer / num_layers
                                : layer_groups.at(static_cast<size_t>(layer));
  };
  std::vector<std::vector<std::string>> keys;
  for (const Site& site : sites) {
    const std::string stack = stack_key(site);
    std::vector<std::string> of_site;
    for (int64_t level = 0; level < levels; ++level) {
      of_site.push_back(fmt::format("{} {}", stack, group_at(site.layer, level)));
    }
    keys.push_back(std::move(of_site));
  }
  return plan_from_keys(sites, levels, keys);
}

}  // namespace msplora::detail
