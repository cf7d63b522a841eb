#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tasks/text_task.h"

namespace msplora {

/// Each token from those before it. The loss never holds the logits of a batch as a whole.
class CausalLm : public TextTask {
 public:
  explicit CausalLm(TaskSettings settings) : TextTask(std::move(settings), LabelKind::kNone) {}

  EncodedDataset encode(const Dataset& rows, int threads) const override;
  int64_t num_targets(const Batch& batch) const override;
  int64_t count_targets(const Examples& examples) const override;
  at::Tensor loss_sum(Model& model, const Batch& batch, const ForwardContext& context) const override;

  std::vector<std::string> metrics() const override { return metrics_or({"loss", "perplexity"}); }
  int64_t num_outputs() const override { return 0; }
  void score(Model& model, const Batch& batch, MetricSet& metrics) const override;

  /// [loss, tokens] of each example: sums, one sequence after the other.
  at::Tensor outputs(Model& model, const Batch& batch) const override;
  std::vector<std::string> prediction_columns(bool details) const override;
  std::vector<Prediction> predictions(const at::Tensor& outputs, bool details) const override;

 protected:
  /// The label of a token is the one that follows in its sequence.
  void label(std::span<const TokenizedExample> examples, uint64_t epoch, Batch& batch) const override;
};

}  // namespace msplora
