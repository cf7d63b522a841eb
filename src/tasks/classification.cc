#include <ATen/TensorOperators.h>
#include <ATen/ops/softmax.h>
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

/// One of several classes for each text.
class Classification : public TextTask {
 public:
  explicit Classification(TaskSettings settings)
      : TextTask(std::move(settings), LabelKind::kClass), names_(this->settings().labels->names()) {}

  int64_t num_targets(const Batch& batch) const override { return count_labels(batch); }
  at::Tensor loss_sum(Model& model, const Batch& batch, const ForwardContext& context) const override {
    return cross_entropy_sum(model.forward(packed_input(batch), context), label_tensor(batch));
  }

  std::vector<std::string> metrics() const override { return metrics_or(metrics_for(num_outputs())); }
  int64_t num_outputs() const override { return static_cast<int64_t>(names_.size()); }
  void score(Model& model, const Batch& batch, MetricSet& metrics) const override {
    const at::Tensor logits = outputs(model, batch);
    if (const int64_t targets = num_targets(batch))
      metrics.update_loss(cross_entropy_sum(logits, label_tensor(batch)).item<double>(), targets);
    const at::Tensor classes = logits.argmax(1).contiguous();
    const int64_t* predicted = classes.data_ptr<int64_t>();
    for (size_t i = 0; i < batch.labels.size(); ++i) {
      if (batch.labels[i] != kIgnoredLabel) metrics.update_class(predicted[i], batch.labels[i]);
    }
  }

  at::Tensor outputs(Model& model, const Batch& batch) const override {
    return model.forward(packed_input(batch), ForwardContext{}).to(at::kCPU, at::kFloat);
  }
  std::vector<std::string> prediction_columns(bool details) const override {
    std::vector<std::string> columns = {"prediction"};
    columns.insert(columns.end(), names_.begin(), names_.end());
    for (size_t c = 0; details && c < names_.size(); ++c) columns.push_back("logit:" + names_[c]);
    return columns;
  }
  std::vector<Prediction> predictions(const at::Tensor& outputs, bool details) const override {
    const at::Tensor logits = outputs.contiguous();
    const at::Tensor shares = at::softmax(logits, 1).contiguous(), best = logits.argmax(1).contiguous();
    std::vector<Prediction> predictions(static_cast<size_t>(logits.size(0)));
    for (size_t i = 0; i < predictions.size(); ++i) {
      const float* of_row = logits.data_ptr<float>() + i * names_.size();
      const float* share = shares.data_ptr<float>() + i * names_.size();
      Prediction& prediction = predictions[i];
      const std::string& name = names_[static_cast<size_t>(best.data_ptr<int64_t>()[i])];
      prediction.cells.push_back(name);
      prediction.json = {{"prediction", name}, {"probabilities", nlohmann::ordered_json::object()}};
      for (size_t c = 0; c < names_.size(); ++c) {
        prediction.cells.push_back(fmt::format("{:.6f}", share[c]));
        prediction.json["probabilities"][names_[c]] = share[c];
      }
      for (size_t c = 0; details && c < names_.size(); ++c) {
        prediction.cells.push_back(fmt::format("{:.9g}", of_row[c]));
        prediction.json["logits"][names_[c]] = of_row[c];
      }
    }
    return predictions;
  }

  void describe(ModelConfig& config) const override {
    config.problem_type = "single_label_classification";
    config.id2label = settings().labels->id2label();
  }

 protected:
  void label(std::span<const TokenizedExample> examples, uint64_t, Batch& batch) const override {
    for (const TokenizedExample& example : examples) batch.labels.push_back(example.label);
  }

 private:
  std::vector<std::string> names_;
};

}  // namespace

TaskKind classification_task() {
  return {"classification",
          "one of several classes for each text",
          ModelTask::kSequenceClassification,
          LabelKind::kClass,
          "SEQ_CLS",
          [](TaskSettings settings) -> std::unique_ptr<Task> {
            if (!settings.labels)
              throw Error(ErrorCode::kUsage, "classification", "the task is made without its classes");
            return std::make_unique<Classification>(std::move(settings));
          }};
}

}  // namespace msplora
