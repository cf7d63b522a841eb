#include "adapters/low_rank.h"

#include <fmt/format.h>
#include <utility>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapters/initial.h"
#include "adapters/initial_factors.h"
#include "adapters/target_modules.h"
#include "msplora/core/random.h"

namespace msplora::detail {

uint64_t dropout_stream(const Site& site, int64_t level) {
  return hash_name(fmt::format("{}.lora_dropout.{}", site.path, level));
}

double scaling_of(double alpha, int64_t rank, bool use_rslora) {
  const auto r = static_cast<double>(rank);
  return alpha / (use_rslora ? std::sqrt(r) : r);
}

void check_rank(const std::string& where, int64_t rank, const std::vector<Site>& sites, ErrorList& errors) {
  std::vector<Site> narrow;
  int64_t limit = rank;
  for (const Site& site : sites) {
    const int64_t smaller = std::min(site.in_features, site.out_features);
    if (rank <= smaller) continue;
    narrow.push_back(site);
    limit = std::min(limit, smaller);
  }
  if (narrow.empty()) return;
  errors.add(where, fmt::format("rank {} is larger than a dimension of {}", rank, describe_sites(narrow)),
             fmt::format("at most {}", limit));
}

std::vector<TensorSpec> LowRankLayout::tensors(const std::vector<Site>& sites) const {
  std::vector<TensorSpec> specs;
  for (size_t i = 0; i < plan.groups.size(); ++i) {
    const Site& owner = sites[plan.groups[i].owner];
    const GroupFactors& f = factors[i];
    specs.push_back({f.down_name, {f.rank, owner.in_features}, plan.groups[i].level, owner.layer});
    specs.push_back({f.up_name, {owner.out_features, f.rank}, plan.groups[i].level, owner.layer});
  }
  return specs;
}

LowRankAdapter::LowRankAdapter(MethodInput input, LowRankLayout layout)
    : Adapter(std::move(input.config), std::move(input.target), std::move(input.sites)),
      layout_(std::move(layout)) {
  for (size_t i = 0; i < layout_.plan.groups.size(); ++i) {
    const ShareGroup& group = layout_.plan.groups[i];
    const GroupFactors& f = layout_.factors[i];
    const Site& owner = sites_[group.owner];
    const Factors factors =
        input.values_follow
            ? zero_factors(f.rank, owner)
            : initial_factors({config_.init, f.down_name, f.rank, f.scaling, input.seed}, owner);
    downs_.push_back(add_trainable(f.down_name, factors.down, group.level));
    ups_.push_back(add_trainable(f.up_name, factors.up, group.level));
    if (owner.role != LinearRole::kWords) trainable_.back().lr_scale = config_.lora_plus_ratio;
  }
}

std::vector<LowRankTerm> LowRankAdapter::terms(size_t site_index) const {
  std::vector<LowRankTerm> terms;
  for (int64_t level = 0; level < layout_.plan.levels; ++level) {
    if (!layout_.plan.acts(site_index, level)) continue;
    const size_t group = layout_.plan.group_of[site_index][static_cast<size_t>(level)];
    const GroupFactors& f = layout_.factors[group];
    const Site& site = sites_[site_index];
    const double dropout = site.role == LinearRole::kWords ? 0.0 : f.dropout;  // as PEFT
    terms.push_back({downs_[group], ups_[group], f.scaling, dropout, dropout_stream(site, level)});
  }
  return terms;
}

std::vector<size_t> LowRankAdapter::levels_of_terms(size_t site_index) const {
  std::vector<size_t> levels;
  for (int64_t level = 0; level < layout_.plan.levels; ++level) {
    if (layout_.plan.acts(site_index, level)) levels.push_back(static_cast<size_t>(level));
  }
  return levels;
}

AdapterState LowRankAdapter::state(const std::string&) const {
  nlohmann::json groups = nlohmann::json::array();
  for (size_t i = 0; i < layout_.plan.groups.size(); ++i) {
    const ShareGroup& group = layout_.plan.groups[i];
    nlohmann::json members = nlohmann::json::array();
    for (const size_t site : group.members) {
      if (layout_.plan.acts(site, group.level)) members.push_back(sites_[site].path);
    }
    groups.push_back({{"level", group.level},
                      {"rank", layout_.factors[i].rank},
                      {"scaling", layout_.factors[i].scaling},
                      {"owner", sites_[group.owner].path},
                      {"sites", std::move(members)}});
  }
  AdapterState state;
  state.plan = {{"levels", layout_.plan.levels}, {"groups", std::move(groups)}};
  return state;
}

}  // namespace msplora::detail
