#include "adapters/low_rank.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapters/initial.h"
#include "adapters/target_modules.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

at::Tensor initial_down(const std::string& name, int64_t rank, int64_t in, const std::string& init,
                        uint64_t seed) {
  at::Tensor tensor = at::empty({rank, in}, at::kFloat);
  float* values = tensor.data_ptr<float>();
  RandomStream stream(seed, name);
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  const double deviation = 1.0 / static_cast<double>(rank);
  const bool gaussian = init == "gaussian";
  for (int64_t i = 0; i < rank * in; ++i) {
    const double value = gaussian ? stream.normal() * deviation : (2.0 * stream.uniform() - 1.0) * bound;
    values[i] = static_cast<float>(value);
  }
  return tensor;
}

}  // namespace

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
    const at::Tensor down = initial_down(f.down_name, f.rank, owner.in_features, config_.init, input.seed);
    const at::TensorOptions options = factor_options(owner);
    downs_.push_back(add_trainable(f.down_name, down.to(options), group.level));
    ups_.push_back(add_trainable(f.up_name, at::zeros({owner.out_features, f.rank}, options), group.level));
  }
}

std::vector<LowRankTerm> LowRankAdapter::terms(size_t site_index) const {
  std::vector<LowRankTerm> terms;
  const std::string& path = sites_.at(site_index).path;
  for (int64_t level = 0; level < layout_.plan.levels; ++level) {
    if (!layout_.plan.acts(site_index, level)) continue;
    const size_t group = layout_.plan.group_of[site_index][static_cast<size_t>(level)];
    const GroupFactors& f = layout_.factors[group];
    // The stream is named after the site, not the owner: layers that share factors draw masks of their own.
    terms.push_back({downs_[group], ups_[group], f.scaling, f.dropout,
                     hash_name(fmt::format("{}.lora_dropout.{}", path, level))});
  }
  return terms;
}

nlohmann::json LowRankAdapter::plan() const {
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
  return {{"levels", layout_.plan.levels}, {"groups", std::move(groups)}};
}

}  // namespace msplora::detail
