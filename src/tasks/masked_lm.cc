#include <ATen/TensorOperators.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "msplora/nn/functional.h"
#include "msplora/tasks/inputs.h"
#include "tasks/list.h"
#include "tasks/text_task.h"

namespace msplora {
namespace {

/// Masked tokens of each text, new ones in every epoch.
class MaskedLm : public TextTask {
 public:
  explicit MaskedLm(TaskSettings settings)
      : TextTask(std::move(settings), LabelKind::kNone),
        vocabulary_(this->settings().vocabulary
                        ? *this->settings().vocabulary
                        : MlmVocabulary::from_tokenizer(*this->settings().tokenizer)) {}

  int64_t num_targets(const Batch& batch) const override { return count_labels(batch); }
  at::Tensor loss_sum(Model& model, const Batch& batch, const ForwardContext& context) const override {
    at::Tensor labels;
    const PackedInput input = packed_input_with_labels(batch, labels);
    return cross_entropy_sum(model.forward(input, context), labels);
  }

  std::vector<std::string> metrics() const override { return metrics_or({"loss", "perplexity", "accuracy"}); }
  int64_t num_outputs() const override { return 0; }
  void score(Model& model, const Batch& batch, MetricSet& metrics) const override {
    at::Tensor labels;
    const PackedInput input = packed_input_with_labels(batch, labels);
    const at::Tensor logits = model.forward(input, ForwardContext{}).cpu();
    metrics.update_loss(cross_entropy_sum(logits, labels).item<double>(), labels.numel());
    metrics.update_right(logits.argmax(1).eq(labels).sum().item<int64_t>(), labels.numel());
  }

  at::Tensor outputs(Model&, const Batch&) const override { refuse(); }
  std::vector<std::string> prediction_columns(bool) const override { refuse(); }
  std::vector<Prediction> predictions(const at::Tensor&, bool) const override { refuse(); }

 protected:
  void label(std::span<const TokenizedExample>, uint64_t epoch, Batch& batch) const override {
    MaskOptions options = settings().mask;
    // The first token's guess is a help in learning; words are what is measured.
    if (epoch == kEvaluationEpoch) options.first_token = false;
    batch.labels.resize(batch.tokens());
    const std::span<int64_t> ids(batch.input_ids), labels(batch.labels);
    for (size_t i = 0; i < batch.sequences(); ++i) {
      const auto begin = static_cast<size_t>(batch.cu_seqlens[i]),
                 length = static_cast<size_t>(batch.cu_seqlens[i + 1]) - begin;
      mask_tokens(ids.subspan(begin, length), labels.subspan(begin, length), vocabulary_, options, epoch,
                  batch.examples[i]);
    }
  }

 private:
  [[noreturn]] static void refuse() {
    throw Error(ErrorCode::kUsage, "masked_lm", "the task has no predictions", "`eval` scores such a model");
  }

  MlmVocabulary vocabulary_;
};

}  // namespace

TaskKind masked_lm_task() {
  return {"masked_lm",
          "masked tokens of each text",
          ModelTask::kMaskedLm,
          LabelKind::kNone,
          "",
          [](TaskSettings settings) -> std::unique_ptr<Task> {
            if (!settings.vocabulary && !settings.tokenizer)
              throw Error(ErrorCode::kUsage, "masked_lm",
                          "the task is made without tokenizer and vocabulary");
            return std::make_unique<MaskedLm>(std::move(settings));
          }};
}

}  // namespace msplora
