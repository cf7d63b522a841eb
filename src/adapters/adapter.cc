#include "msplora/adapters/adapter.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
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
    auto update = std::make_shared<SiteUpdate>(update_of(i));
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
