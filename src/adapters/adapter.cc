#include "msplora/adapters/adapter.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "adapters/base_parameters.h"
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

bool Adapter::is_model_gone() const {
  return target_.lifetime && target_.lifetime->expired();
}

void Adapter::attach_updates(const std::function<SiteUpdate(size_t)>& made) {
  if (is_merged()) {
    throw Error(ErrorCode::kUsage, "adapter", "it was merged: its update is in the weights already",
                "load model and adapter again");
  }
  if (is_model_gone()) throw Error(ErrorCode::kUsage, "adapter", "its model is gone");
  take_updates_off();
  for (const Site& site : sites_) {
    if (site.linear == nullptr) {
      throw Error(ErrorCode::kUsage, site.path, "the site has no layer (only its shape is known)");
    }
    if (site.linear->update != nullptr) {
      throw Error(ErrorCode::kUsage, site.path, "the layer already carries an adapter",
                  "detach or destroy it first");
    }
  }
  if (base_) base_->put_into_model();
  place_ = Place::kOnModel;
  name_base_tensors();
  for (size_t i = 0; i < sites_.size(); ++i) {
    auto update = std::make_shared<SiteUpdate>(made(i));
    if (update->empty()) continue;
    sites_[i].linear->update = update;
    attached_.emplace_back(sites_[i].linear, std::move(update));
  }
}

void Adapter::take_updates_off() {
  for (const auto& [linear, update] : attached_) {
    if (!is_model_gone() && linear->update == update) linear->update = nullptr;
  }
  attached_.clear();
}

void Adapter::detach() {
  take_updates_off();
  if (!attached()) return;
  if (base_) base_->take_out_of_model();
  place_ = Place::kOffModel;
  name_base_tensors();
}

void Adapter::become_merged() {
  take_updates_off();
  if (base_) base_->leave_in_model();
  place_ = Place::kMerged;
}

void Adapter::name_base_tensors() {
  for (size_t i = 0; base_ && i < base_->parameters().size(); ++i) {
    const std::string& name = base_->parameters()[i].parameter.name;
    for (TrainableTensor& entry : trainable_) {
      if (entry.name == name) entry.tensor = base_->tensor(i);
    }
  }
}

at::Tensor Adapter::add_trainable(std::string name, at::Tensor tensor, int64_t level) {
  tensor.requires_grad_(true);
  trainable_.push_back({std::move(name), tensor, ParameterGroup::kAdapter, level});
  return tensor;
}

}  // namespace msplora
