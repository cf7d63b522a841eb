#include "msplora/adapters/merge.h"

#include <ATen/ops/isfinite.h>
#include <c10/core/GradMode.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <vector>

#include "adapters/merged_sites.h"
#include "msplora/core/error.h"

namespace msplora {
namespace {

/// round(stored + change), with one rounding to the stored type.
at::Tensor merged(const at::Tensor& tensor, const at::Tensor& change, at::ScalarType stored_dtype,
                  const std::string& name) {
  const at::ScalarType wide = tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor sum = tensor.to(wide) + change.to(wide);
  at::Tensor result = sum.to(stored_dtype).to(tensor.scalar_type()).contiguous();
  if (!at::isfinite(result).all().item<bool>()) {
    throw Error(ErrorCode::kNumerics, name, "the merged values are not finite",
                "the adapter holds NaN or infinity, or the sum does not fit the stored type");
  }
  return result;
}

using detail::MergedSite;

MergedSite merged_site(const Adapter& adapter, size_t index, at::ScalarType stored_dtype) {
  const Site& site = adapter.sites()[index];
  const Linear& layer = *site.linear;
  MergedSite result;
  const SiteChange change = adapter.change_of(index);
  result.weight = merged(layer.weight->values(), change.weight, stored_dtype, site.path + ".weight");
  if (!change.bias.defined()) return result;
  if (!layer.bias.defined()) {
    throw Error(ErrorCode::kUsage, site.path,
                "the adapter gives the layer a bias, for which the model's files have no place",
                "use the adapter without merging it");
  }
  result.bias = merged(layer.bias, change.bias, stored_dtype, site.path + ".bias");
  return result;
}

/// Before the table of words would change with the layer that is tied to it, or the layer with the table.
void untie_adapted(const Adapter& adapter) {
  const AdapterTarget& target = adapter.target();
  const bool is_adapted = std::any_of(target.ties.begin(), target.ties.end(), [&](const TiedName& tie) {
    return std::any_of(adapter.sites().begin(), adapter.sites().end(), [&](const Site& site) {
      const std::string name = site.path + ".weight";
      return name == tie.name || name == tie.parameter;
    });
  });
  if (is_adapted) target.untie();
}

/// Puts an adapter on for merging, and takes it off again where nothing comes of it.
class OnModel {
 public:
  explicit OnModel(Adapter& adapter) : adapter_(adapter), was_off_(!adapter.attached()) {
    if (was_off_) adapter_.attach();
  }
  ~OnModel() {
    if (was_off_ && !adapter_.is_merged()) adapter_.detach();
  }
  OnModel(const OnModel&) = delete;
  OnModel& operator=(const OnModel&) = delete;

 private:
  Adapter& adapter_;
  bool was_off_;
};

}  // namespace

std::vector<MergedSite> detail::merged_sites(const Adapter& adapter, at::ScalarType stored_dtype) {
  std::vector<MergedSite> sites;
  for (size_t i = 0; i < adapter.sites().size(); ++i) sites.push_back(merged_site(adapter, i, stored_dtype));
  return sites;
}

MergeReport merge_adapter(Adapter& adapter, at::ScalarType stored_dtype) {
  if (!at::isFloatingType(stored_dtype)) {
    throw Error(ErrorCode::kUsage, "merge_adapter: stored_dtype",
                fmt::format("expected a floating-point type, found {}", c10::toString(stored_dtype)),
                "float32, bfloat16 or float16");
  }
  if (adapter.is_merged()) {
    throw Error(ErrorCode::kUsage, "merge_adapter",
                "the adapter was merged before: its update would count twice");
  }
  c10::NoGradGuard no_grad;
  MergeReport report;
  const OnModel on_model(adapter);
  const std::vector<MergedSite> sites = detail::merged_sites(adapter, stored_dtype);
  untie_adapted(adapter);
  adapter.become_merged();
  for (size_t i = 0; i < sites.size(); ++i) {
    Linear& layer = *adapter.sites()[i].linear;
    layer.weight->set(sites[i].weight);
    if (sites[i].bias.defined()) layer.bias = sites[i].bias;
  }
  report.sites = static_cast<int64_t>(sites.size());
  return report;
}

std::vector<at::Tensor> sample_logits(Model& model, const std::vector<PackedInput>& samples) {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> logits;
  for (const PackedInput& sample : samples) logits.push_back(model.forward(sample, ForwardContext{}));
  return logits;
}

LogitDifference compare_logits(const std::vector<at::Tensor>& first, const std::vector<at::Tensor>& second) {
  LogitDifference result;
  for (size_t i = 0; i < first.size(); ++i) {
    result.largest = std::max(result.largest, (second[i] - first[i]).abs().max().item<double>());
    result.largest_logit = std::max(result.largest_logit, first[i].abs().max().item<double>());
  }
  return result;
}

}  // namespace msplora
