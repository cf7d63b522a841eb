#include "msplora/adapters/adapter.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {

Adapter::Adapter(AdapterConfig config, AdapterTarget target, std::vector<Site> sites)
    : config_(std::move(config)), target_(std::move(target)), sites_(std::move(sites)) {}

Adapter::~Adapter() {
  detach();
}

bool Adapter::is_shape_only() const {
  const auto has_no_layer = [](const Site& site) { return site.linear == nullptr; };
  return !sites_.empty() && std::all_of(sites_.begin(), sites_.end(), has_no_layer);
}

std::vector<size_t> Adapter::levels_of_terms(size_t site_index) const {
  return std::vector<size_t>(terms(site_index).size(), 0);
}

int64_t Adapter::trainable_count(ParameterGroup group) const {
  int64_t count = 0;
  for (const TrainableTensor& entry : trainable_) {
    if (entry.group == group) count += entry.tensor.numel();
  }
  return count;
}

SiteChange Adapter::change_of(size_t site_index) const {
  const c10::NoGradGuard no_grad;
  const Site& site = sites_.at(site_index);
  at::Tensor sum = at::zeros({site.out_features, site.in_features}, at::kDouble);
  for (const LowRankTerm& term : terms(site_index)) {
    sum = sum.to(term.up.device());
    sum += at::mm(term.up.to(at::kDouble), term.down.to(at::kDouble)).mul_(term.scaling);
  }
  if (site.role == LinearRole::kWords) sum = sum.t().contiguous();  // as the table is stored
  const bool is_double = site.linear != nullptr && site.linear->weight->dtype() == at::kDouble;
  return {is_double ? sum : sum.to(at::kFloat), {}};
}

SiteUpdate Adapter::update_of(size_t site_index) const {
  SiteUpdate update;
  update.low_rank = terms(site_index);
  return update;
}

void Adapter::attach() {
  attach_updates([this](size_t site_index) { return update_of(site_index); });
}

void Adapter::attach_without(size_t level) {
  const auto rest_of = [this, level](size_t site_index, const std::vector<LowRankTerm>& all) {
    const std::vector<size_t> levels = levels_of_terms(site_index);
    std::vector<LowRankTerm> rest;
    for (size_t k = 0; k < all.size(); ++k) {
      if (levels.at(k) != level) rest.push_back(all[k]);
    }
    return rest;
  };
  attach_updates([this, rest_of](size_t site_index) {
    SiteUpdate update = update_of(site_index);
    // Either form has the terms of terms().
    if (!update.low_rank.empty()) update.low_rank = rest_of(site_index, update.low_rank);
    if (update.computed_low_rank) {
      update.computed_low_rank = [rest_of, site_index, computed = update.computed_low_rank] {
        return rest_of(site_index, computed());
      };
    }
    return update;
  });
}

void Adapter::attach_updates(const std::function<SiteUpdate(size_t)>& made) {
  detach();
  for (const Site& site : sites_) {
    if (site.linear == nullptr) {
      throw Error(ErrorCode::kUsage, site.path, "the site has no layer (only its shape is known)");
    }
    if (site.linear->update != nullptr) {
      throw Error(ErrorCode::kUsage, site.path, "the layer already carries an adapter",
                  "detach or destroy it first");
    }
  }
  for (size_t i = 0; i < sites_.size(); ++i) {
    auto update = std::make_shared<SiteUpdate>(made(i));
    if (update->empty()) continue;
    sites_[i].linear->update = update;
    attached_.emplace_back(sites_[i].linear, std::move(update));
  }
}

void Adapter::detach() {
  for (const auto& [linear, update] : attached_) {
    if (linear->update == update) linear->update = nullptr;
  }
  attached_.clear();
}

at::Tensor Adapter::add_trainable(std::string name, at::Tensor tensor, int64_t level) {
  tensor.requires_grad_(true);
  trainable_.push_back({std::move(name), tensor, ParameterGroup::kAdapter, level});
  return tensor;
}

}  // namespace msplora
