#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/tasks/inputs.h"
#include "tasks/causal_lm.h"
#include "tasks/list.h"

namespace msplora {
namespace {

/// Tokens of an example that are learned: those with one before them in their sequence.
std::vector<size_t> learned(const TokenizedExample& example) {
  const auto length = static_cast<int32_t>(example.ids.size());
  std::vector<TokenSpan> spans = example.predicted;
  if (spans.empty()) spans = {{1, length}};
  std::vector<size_t> places;
  for (const TokenSpan& span : spans) {
    for (int32_t i = std::max(1, span.begin); i < std::min(length, span.end); ++i) {
      if (!std::binary_search(example.starts.begin(), example.starts.end(), i))
        places.push_back(static_cast<size_t>(i));
    }
  }
  return places;
}

}  // namespace

EncodedDataset CausalLm::encode(const Dataset& rows, int threads) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].has_pair) {
      throw Error(ErrorCode::kData, rows.where(i), "causal_lm learns one text of each row, found two",
                  "leave out data.text_pair");
    }
  }
  return TextTask::encode(rows, threads);
}

int64_t CausalLm::num_targets(const Batch& batch) const {
  return count_labels(batch);
}
int64_t CausalLm::count_targets(const Examples& examples) const {
  int64_t count = 0;
  for (size_t i = 0; i < examples.size; ++i) count += static_cast<int64_t>(learned(examples.get(i)).size());
  return count;
}
at::Tensor CausalLm::loss_sum(Model& model, const Batch& batch, const ForwardContext& context) const {
  at::Tensor labels;
  const PackedInput input = packed_input_with_labels(batch, labels);
  return model.loss_sum(input, labels, context);
}

void CausalLm::score(Model& model, const Batch& batch, MetricSet& metrics) const {
  if (const int64_t targets = num_targets(batch))
    metrics.update_loss(loss_sum(model, batch, ForwardContext{}).item<double>(), targets);
}

at::Tensor CausalLm::outputs(Model& model, const Batch& batch) const {
  at::Tensor sums = at::zeros({static_cast<int64_t>(batch.sequences()), 2}, at::kFloat);
  for (size_t i = 0; i < batch.sequences(); ++i) {
    const auto begin = batch.cu_seqlens[i], end = batch.cu_seqlens[i + 1];
    Batch one;
    one.input_ids.assign(batch.input_ids.begin() + begin, batch.input_ids.begin() + end);
    one.labels.assign(batch.labels.begin() + begin, batch.labels.begin() + end);
    one.cu_seqlens = {0, end - begin};
    one.examples = {batch.examples[i]};
    const int64_t targets = num_targets(one);
    if (targets == 0) continue;
    float* row = sums.data_ptr<float>() + 2 * i;
    row[0] = static_cast<float>(loss_sum(model, one, ForwardContext{}).item<double>());
    row[1] = static_cast<float>(targets);
  }
  return sums;
}
std::vector<std::string> CausalLm::prediction_columns(bool details) const {
  return details ? std::vector<std::string>{"loss", "log_likelihood", "tokens"}
                 : std::vector<std::string>{"loss"};
}
std::vector<Prediction> CausalLm::predictions(const at::Tensor& outputs, bool details) const {
  std::vector<Prediction> predictions(static_cast<size_t>(outputs.size(0)));
  for (size_t i = 0; i < predictions.size(); ++i) {
    const float sum = outputs.data_ptr<float>()[2 * i], tokens = outputs.data_ptr<float>()[2 * i + 1];
    const float mean = tokens > 0 ? sum / tokens : 0.0F;
    predictions[i].cells.push_back(fmt::format("{:.6f}", mean));
    predictions[i].json["loss"] = mean;
    if (!details) continue;
    predictions[i].cells.push_back(fmt::format("{:.6f}", -sum));
    predictions[i].cells.push_back(fmt::format("{:.0f}", tokens));
    predictions[i].json["log_likelihood"] = -sum;
    predictions[i].json["tokens"] = static_cast<int64_t>(tokens);
  }
  return predictions;
}

void CausalLm::label(std::span<const TokenizedExample> examples, uint64_t, Batch& batch) const {
  batch.labels.assign(batch.tokens(), kIgnoredLabel);
  size_t begin = 0;
  for (const TokenizedExample& example : examples) {
    for (const size_t i : learned(example)) batch.labels[begin + i - 1] = batch.input_ids[begin + i];
    begin += example.ids.size();
  }
}

TaskKind causal_lm_task() {
  return {"causal_lm",
          "each token of a text from those before it",
          ModelTask::kCausalLm,
          LabelKind::kNone,
          "CAUSAL_LM",
          [](TaskSettings settings) -> std::unique_ptr<Task> {
            return std::make_unique<CausalLm>(std::move(settings));
          }};
}

}  // namespace msplora
