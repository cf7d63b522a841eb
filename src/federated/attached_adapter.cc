#include "federated/attached_adapter.h"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace msplora::detail {
namespace {

void fill(const Adapter& adapter, const Message& message) {
  std::map<std::string, at::Tensor> values;
  for (const auto* tensors : {&message.adapter, &message.others}) {
    for (const NamedTensor& entry : *tensors) values[entry.name] = entry.tensor;
  }
  const c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter.trainable()) {
    const auto found = values.find(entry.name);
    if (found != values.end()) at::Tensor(entry.tensor).copy_(found->second);
  }
}

}  // namespace

AttachedAdapter::AttachedAdapter(const AdapterConfig& config, const AdapterTarget& target, uint64_t seed,
                                 const Message& message, const Layout& layout,
                                 const std::vector<MergedProduct>& merged)
    : adapter_(create_adapter(config, target, seed)) {
  fill(*adapter_, message);
  std::map<Linear*, std::shared_ptr<SiteUpdate>> extended;
  for (size_t i = 0; i < merged.size(); ++i) {
    if (merged[i].down.size(0) == 0) continue;
    for (const size_t site : layout.pairs[i].sites) {
      Linear* linear = adapter_->sites()[site].linear;
      auto& update = extended[linear];
      if (update == nullptr) update = std::make_shared<SiteUpdate>(*linear->update);
      update->low_rank.push_back({merged[i].down, merged[i].up, 1.0, 0.0, 0});
    }
  }
  for (auto& [linear, update] : extended) {
    replaced_.emplace_back(linear, linear->update);
    linear->update = std::move(update);
  }
}

AttachedAdapter::~AttachedAdapter() {
  // The adapter takes off only what it put on itself.
  for (auto& [linear, update] : replaced_) linear->update = std::move(update);
}

}  // namespace msplora::detail
