// Losses and gradients of packed rows and accumulated steps, as transformers and its Trainer compute them.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "msplora/core/file.h"
#include "msplora/models/model.h"
#include "msplora/tasks/task.h"

namespace msplora {
namespace {

using nlohmann::json;

class GoldenPacking : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::filesystem::path folder = golden_group("chat") / "packing";
    if (!std::filesystem::exists(folder / "expected.json")) GTEST_SKIP() << "no cases";
    expected_ = json::parse(read_file(folder / "expected.json"));
    ModelLoadOptions options;
    options.task = ModelTask::kCausalLm;
    model_ = load_model(folder, options);
    for (const json& row : expected_["rows"]) {
      TokenizedExample& example = examples_.emplace_back();
      example.ids = row["input_ids"].get<std::vector<int32_t>>();
      // Nothing learned is an empty span: no span would be all.
      example.predicted = {{0, 0}};
      for (size_t t = 0; t < example.ids.size(); ++t) {
        if (row["labels"][t].get<int>() != -100)
          example.predicted.push_back({static_cast<int32_t>(t), static_cast<int32_t>(t) + 1});
      }
    }
  }

  Batch batch(const std::vector<uint32_t>& rows) const { return task_->collate(all_of(examples_), rows, 0); }
  double loss(const Batch& batch) const { return task_->loss_sum(*model_, batch, {}).item<double>(); }

  json expected_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Task> task_ = make_task("sft", {});
  std::vector<TokenizedExample> examples_;
};

TEST_F(GoldenPacking, RowsAloneAndTogether) {
  std::vector<uint32_t> all;
  for (uint32_t i = 0; i < examples_.size(); ++i) {
    all.push_back(i);
    const Batch alone = batch({i});
    const double wanted = expected_["row_loss_sum"][i];
    EXPECT_EQ(task_->num_targets(alone), expected_["row_targets"][i].get<int64_t>()) << i;
    EXPECT_NEAR(loss(alone), wanted, 1e-5 * (1 + wanted)) << i;
    GoldenCounts::compared("chat");
  }
  const Batch packed = batch(all);
  const double total = expected_["total_loss_sum"];
  EXPECT_EQ(task_->num_targets(packed), expected_["total_targets"].get<int64_t>());
  EXPECT_NEAR(loss(packed), total, 1e-5 * total);
}

TEST_F(GoldenPacking, GradientsOfAnAccumulatedStep) {
  for (Parameter& parameter : model_->parameters()) parameter.own(at::kFloat).requires_grad_(true);
  const double targets = expected_["total_targets"];
  double sum = 0.0;
  for (const json& rows : expected_["accumulation"]["micro_batches"]) {
    const at::Tensor loss = task_->loss_sum(*model_, batch(rows.get<std::vector<uint32_t>>()), {});
    sum += loss.item<double>();
    (loss / targets).backward();
  }
  EXPECT_NEAR(sum / targets, expected_["accumulation"]["loss"].get<double>(), 1e-4);
  for (const Parameter& parameter : model_->parameters()) {
    const auto wanted = expected_["gradient_of_loss"].find(parameter.name);
    if (wanted == expected_["gradient_of_loss"].end()) continue;
    const at::Tensor gradient = parameter.tensor().grad().to(at::kDouble).flatten();
    const double norm = (*wanted)["norm"];
    EXPECT_NEAR(gradient.norm().item<double>(), norm, 1e-5 * norm) << parameter.name;
    const auto first = (*wanted)["first"].get<std::vector<double>>();
    for (size_t i = 0; i < first.size(); ++i)
      EXPECT_NEAR(gradient[static_cast<int64_t>(i)].item<double>(), first[i], 1e-5 * norm) << parameter.name;
  }
}

}  // namespace
}  // namespace msplora
