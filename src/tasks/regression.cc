#include <ATen/TensorOperators.h>
#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/nn/functional.h"
#include "msplora/tasks/inputs.h"
#include "tasks/list.h"
#include "tasks/text_task.h"

namespace msplora {
namespace {

/// A number for each text; the loss is the squared error.
class Regression : public TextTask {
 public:
  explicit Regression(TaskSettings settings) : TextTask(std::move(settings), LabelKind::kNumber) {}

  int64_t num_targets(const Batch& batch) const override {
    return static_cast<int64_t>(batch.targets.size());
  }
  at::Tensor loss_sum(Model& model, const Batch& batch, const ForwardContext& context) const override {
    return squared_error_sum(model.forward(packed_input(batch), context), target_tensor(batch));
  }

  std::vector<std::string> metrics() const override { return metrics_or(metrics_for(1)); }
  int64_t num_outputs() const override { return 1; }
  void score(Model& model, const Batch& batch, MetricSet& metrics) const override {
    const at::Tensor values = outputs(model, batch);
    metrics.update_loss(squared_error_sum(values, target_tensor(batch)).item<double>(), num_targets(batch));
    const at::Tensor flat = values.reshape({-1}).contiguous();
    for (size_t i = 0; i < batch.targets.size(); ++i)
      metrics.update_value(flat.data_ptr<float>()[i], batch.targets[i]);
  }

  at::Tensor outputs(Model& model, const Batch& batch) const override {
    return model.forward(packed_input(batch), ForwardContext{}).to(at::kCPU, at::kFloat);
  }
  std::vector<std::string> prediction_columns(bool details) const override {
    return details ? std::vector<std::string>{"prediction", "logit"} : std::vector<std::string>{"prediction"};
  }
  std::vector<Prediction> predictions(const at::Tensor& outputs, bool details) const override {
    const at::Tensor values = outputs.contiguous();
    std::vector<Prediction> predictions(static_cast<size_t>(values.size(0)));
    for (size_t i = 0; i < predictions.size(); ++i) {
      const float value = values.data_ptr<float>()[i];
      // The shortest text that gives the same float back, in tables and in JSON.
      const std::string text = fmt::format("{}", value);
      predictions[i].cells.push_back(text);
      predictions[i].json["prediction"] = nlohmann::ordered_json::parse(text);
      if (!details) continue;
      predictions[i].cells.push_back(fmt::format("{:.9g}", value));
      predictions[i].json["logits"] = nlohmann::ordered_json::array({value});
    }
    return predictions;
  }

  void describe(ModelConfig& config) const override {
    config.problem_type = "regression";
    config.id2label.clear();
  }

 protected:
  void label(std::span<const TokenizedExample> examples, uint64_t, Batch& batch) const override {
    for (const TokenizedExample& example : examples)
      batch.targets.push_back(static_cast<float>(example.target));
  }
};

}  // namespace

TaskKind regression_task() {
  return {"regression",
          "a number for each text",
          ModelTask::kSequenceClassification,
          LabelKind::kNumber,
          "SEQ_CLS",
          [](TaskSettings settings) -> std::unique_ptr<Task> {
            return std::make_unique<Regression>(std::move(settings));
          }};
}

}  // namespace msplora
