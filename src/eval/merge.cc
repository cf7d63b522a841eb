#include "msplora/eval/merge.h"

#include <ATen/ops/isfinite.h>
#include <c10/core/GradMode.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {
namespace {

std::vector<at::Tensor> run_all(Model& model, const std::vector<PackedInput>& samples) {
  std::vector<at::Tensor> logits;
  for (const PackedInput& sample : samples) logits.push_back(model.forward(sample, ForwardContext{}));
  return logits;
}

at::Tensor merged_weight(const Adapter& adapter, size_t index, at::ScalarType stored_dtype) {
  const Site& site = adapter.sites()[index];
  const at::Tensor& weight = site.linear->weight;
  const at::ScalarType wide = weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor sum = weight.to(wide) + adapter.delta_weight(index).to(wide);
  at::Tensor merged = sum.to(stored_dtype).to(weight.scalar_type()).contiguous();
  if (!at::isfinite(merged).all().item<bool>()) {
    throw Error(ErrorCode::kNumerics, site.path, "the merged weight is not finite",
                "the adapter holds NaN or infinity, or the sum does not fit the stored type");
  }
  return merged;
}

}  // namespace

MergeReport merge_adapter(Model& model, Adapter& adapter, at::ScalarType stored_dtype,
                          const std::vector<PackedInput>& samples) {
  c10::NoGradGuard no_grad;
  MergeReport report;
  const std::vector<at::Tensor> before = run_all(model, samples);
  std::vector<at::Tensor> merged;
  for (size_t i = 0; i < adapter.sites().size(); ++i)
    merged.push_back(merged_weight(adapter, i, stored_dtype));
  adapter.detach();
  for (size_t i = 0; i < merged.size(); ++i) adapter.sites()[i].linear->weight = merged[i];
  report.sites = static_cast<int64_t>(merged.size());
  if (samples.empty()) return report;

  const std::vector<at::Tensor> after = run_all(model, samples);
  double difference = 0.0;
  double largest = 0.0;
  for (size_t i = 0; i < before.size(); ++i) {
    difference = std::max(difference, (after[i] - before[i]).abs().max().item<double>());
    largest = std::max(largest, before[i].abs().max().item<double>());
  }
  report.largest_difference = difference;
  report.largest_logit = largest;
  return report;
}

}  // namespace msplora
