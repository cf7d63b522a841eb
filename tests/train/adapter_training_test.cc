#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/merge.h"
#include "msplora/core/file.h"
#include "msplora/tasks/inputs.h"
#include "temporary_directory.h"
#include "train/adapted_run.h"

namespace msplora {
namespace {

AdapterConfig pyramid() {
  AdapterConfig config;
  config.method = "msplora";
  config.rank = 4;
  config.levels = 3;
  config.alpha = 6.0;
  config.dropout = 0.1;
  return config;
}

TEST(AdapterTraining, StagesTrainOneLevelAtATime) {
  TemporaryDirectory directory;
  AdapterConfig config = pyramid();
  config.stagewise = true;
  AdaptedRun run(config);
  run.options.max_steps = 12;
  run.options.load_best_at_end = false;
  const auto before = run.values();
  run.run(directory.path());
  const CheckpointStore store(directory.path());
  const auto& trainable = run.adapter->trainable();
  const auto stage_of = [](int64_t step) { return (step - 1) / 4; };
  std::map<std::string, at::Tensor> last;
  for (size_t i = 0; i < trainable.size(); ++i) last[trainable[i].name] = before[i];
  std::map<std::pair<std::string, int64_t>, bool> moved;
  for (int64_t step = 1; step <= 12; ++step) {
    for (const NamedTensor& now : store.load_trainable(step)) {
      if (!at::equal(now.tensor, last[now.name])) moved[{now.name, stage_of(step)}] = true;
      last[now.name] = now.tensor;
    }
  }
  for (const TrainableTensor& tensor : trainable) {
    for (int64_t stage = 0; stage < 3; ++stage) {
      const bool expected = tensor.group == ParameterGroup::kHead || tensor.level == stage;
      EXPECT_EQ((moved[{tensor.name, stage}]), expected) << tensor.name << " in stage " << stage;
    }
  }
}

TEST(AdapterTraining, StagesResumeBitForBit) {
  AdapterConfig config = pyramid();
  config.stagewise = true;
  TemporaryDirectory whole_directory;
  AdaptedRun whole(config);
  whole.options.max_steps = 12;
  whole.run(whole_directory.path());
  for (const int64_t pause : {3, 4, 7}) {
    TemporaryDirectory directory;
    AdaptedRun first(config);
    first.options.max_steps = 12;
    first.options.stop_at = pause;
    first.run(directory.path());
    AdaptedRun second(config);
    second.options.max_steps = 12;
    second.run(directory.path(), /*resume=*/true);
    EXPECT_TRUE(all_equal(second.values(), whole.values())) << pause;
  }
}

TEST(AdapterTraining, Bfloat16ComputesWithFloat32Adapters) {
  TemporaryDirectory directory;
  AdaptedRun run(pyramid(), at::kBFloat16);
  run.options.epochs = 4;
  const TrainingResult result = run.run(directory.path());
  EXPECT_LT(result.last_loss, 0.9);
  for (const TrainableTensor& tensor : run.adapter->trainable()) {
    EXPECT_EQ(tensor.tensor.scalar_type(), at::kFloat) << tensor.name;
  }
}

class MergeMethods : public testing::TestWithParam<std::string> {};

TEST_P(MergeMethods, GivesTheSameLogits) {
  TemporaryDirectory directory;
  AdapterConfig config = pyramid();
  config.method = GetParam();
  AdaptedRun run(config);
  run.options.epochs = 3;
  run.run(directory.path());
  const at::Tensor adapted = run.logits();
  std::vector<PackedInput> samples = {packed_input(run.data->batch(0, 0)),
                                      packed_input(run.data->batch(0, 1))};
  const std::vector<at::Tensor> before_merging = sample_logits(*run.model, samples);
  const MergeReport report = merge_adapter(*run.adapter, at::kFloat);
  const LogitDifference difference = compare_logits(before_merging, sample_logits(*run.model, samples));
  const at::Tensor merged = run.logits();
  EXPECT_EQ(report.sites, 6);
  EXPECT_LT(difference.largest, 1e-5 * std::max(1.0, difference.largest_logit));
  EXPECT_GT(difference.largest_logit, 0.0);
  EXPECT_LT((adapted - merged).abs().max().item<double>(), 1e-5 * adapted.abs().max().item<double>() + 1e-6);
  for (const Site& site : run.model->sites()) EXPECT_EQ(site.linear->update, nullptr);
}

INSTANTIATE_TEST_SUITE_P(Methods, MergeMethods, testing::Values("msplora", "lora", "aslora", "prilora"));

TEST(Merge, RoundsOnceToTheStoredType) {
  AdapterConfig config = pyramid();
  AdaptedRun run(config);
  for (const TrainableTensor& tensor : run.adapter->trainable()) {
    c10::NoGradGuard no_grad;
    if (tensor.group == ParameterGroup::kAdapter) at::Tensor(tensor.tensor).fill_(0.01);
  }
  const Site site = run.adapter->sites()[1];
  const at::Tensor exact =
      site.linear->weight->values().to(at::kDouble) + run.adapter->change_of(1).weight.to(at::kDouble);
  const at::Tensor before = site.linear->weight->values();
  const at::Tensor kept = before.clone();
  merge_adapter(*run.adapter, at::kBFloat16);
  EXPECT_EQ(site.linear->weight->values().scalar_type(), at::kFloat);
  EXPECT_TRUE(
      at::equal(site.linear->weight->values(), exact.to(at::kFloat).to(at::kBFloat16).to(at::kFloat)));
  EXPECT_TRUE(at::equal(before, kept)) << "the old weight may be a view of a file";
}

TEST(Merge, RefusesWeightsThatAreNotFinite) {
  AdaptedRun run(pyramid());
  const at::Tensor before = run.adapter->sites()[0].linear->weight->values();
  for (const TrainableTensor& tensor : run.adapter->trainable()) {
    c10::NoGradGuard no_grad;
    if (tensor.group == ParameterGroup::kAdapter) at::Tensor(tensor.tensor).fill_(1e30);
  }
  try {
    merge_adapter(*run.adapter, at::kFloat);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumerics);
    EXPECT_THAT(error.what(), testing::HasSubstr("query"));
  }
  EXPECT_TRUE(at::equal(run.adapter->sites()[0].linear->weight->values(), before));
  EXPECT_NE(run.adapter->sites()[0].linear->update, nullptr);
}

}  // namespace
}  // namespace msplora
