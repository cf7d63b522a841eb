// What surrounds training, on a device that is not the CPU.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/merge.h"
#include "msplora/bench/step.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/tasks/target.h"
#include "msplora/train/trainer.h"
#include "nn/drawn_tensors.h"
#include "nn/pretend_device.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

using testing::other_device;
using testing::relative_difference;

std::unique_ptr<Model> tiny_model(ModelConfig config, ModelTask task, const at::Device& device) {
  ModelLoadOptions options;
  options.task = task;
  options.num_labels = 2;
  options.seed = 5;
  options.device = device;
  return create_model(config, options);
}

ModelConfig tiny_decoder() {
  return tiny_config("llama", 0.0);
}

TEST(OtherDevice, EvaluatesAndPredictsAsOnTheCpu) {
  const std::vector<TokenizedExample> examples = tiny_examples(30, 1);
  const auto here = tiny_model(tiny_config(), ModelTask::kSequenceClassification, at::kCPU);
  const auto there = tiny_model(tiny_config(), ModelTask::kSequenceClassification, other_device());
  const auto task = text_task();
  Evaluator expected(*task, *here, all_of(examples)), found(*task, *there, all_of(examples));
  const Evaluation a = expected.run(), b = found.run();
  ASSERT_EQ(a.metrics.size(), b.metrics.size());
  for (size_t i = 0; i < a.metrics.size(); ++i)
    EXPECT_NEAR(a.metrics[i].second, b.metrics[i].second, 1e-4) << a.metrics[i].first;
  EXPECT_LT(relative_difference(predict_logits(*there, examples).cpu(), predict_logits(*here, examples)),
            1e-4);
}

TEST(OtherDevice, MaskedAndCausalLanguageModelsHaveTheirLosses) {
  PackedInput input;
  input.cu_seqlens = {0, 4, 9};
  input.input_ids = at::arange(9, at::kLong) + 10;
  const at::Tensor labels = at::arange(3, at::kLong) + 20;
  input.output_rows = at::arange(3, at::kLong) * 2;
  for (const bool is_decoder : {false, true}) {
    const ModelConfig config = is_decoder ? tiny_decoder() : tiny_config();
    const ModelTask task = is_decoder ? ModelTask::kCausalLm : ModelTask::kMaskedLm;
    const auto here = tiny_model(config, task, at::kCPU), there = tiny_model(config, task, other_device());
    const at::Tensor loss = there->loss_sum(input, labels, {});
    EXPECT_TRUE(loss.device() == other_device());
    EXPECT_LT(relative_difference(loss.cpu(), here->loss_sum(input, labels, {})), 1e-4);
  }
}

TEST(OtherDevice, AdaptersAreSavedLoadedAndMerged) {
  const std::vector<TokenizedExample> examples = tiny_examples(10, 1);
  const TemporaryDirectory directory;
  AdapterConfig config;
  config.method = "msplora";
  config.target_modules = {"query", "value"};
  const auto model = tiny_model(tiny_config(), ModelTask::kSequenceClassification, other_device());
  at::Tensor expected;
  {
    const auto adapter = create_adapter(config, target_of(*model), 1);
    const c10::NoGradGuard no_grad;
    for (const TrainableTensor& entry : adapter->trainable()) at::Tensor(entry.tensor).add_(0.05);
    expected = predict_logits(*model, examples).cpu();
    save_native_adapter(*adapter, directory.path());
  }
  EXPECT_GT(relative_difference(predict_logits(*model, examples).cpu(), expected), 1e-2);
  const auto loaded = load_adapter(directory.path(), target_of(*model));
  EXPECT_LT(relative_difference(predict_logits(*model, examples).cpu(), expected), 1e-6);
  merge_adapter(*loaded, at::kFloat);
  EXPECT_LT(relative_difference(predict_logits(*model, examples).cpu(), expected), 1e-4);
  save_model(*model, directory.path() / "merged", at::kFloat);
  const auto reloaded = load_model(directory.path() / "merged", {});
  EXPECT_LT(relative_difference(predict_logits(*reloaded, examples), expected), 1e-4);
}

TEST(OtherDevice, ADecoderLearnsWithRecomputedActivations) {
  const TemporaryDirectory directory;
  const std::vector<TokenizedExample> examples = tiny_examples(32, 2);
  const auto model = tiny_model(tiny_decoder(), ModelTask::kCausalLm, other_device());
  AdapterConfig config;
  config.target_modules = {"all-linear"};
  const auto adapter = create_adapter(config, target_of(*model), 1);
  TrainOptions options;
  options.lr = 1e-2;
  options.epochs = 3;
  options.checkpoint_activations = true;
  EXPECT_LT(share_of_loss_left(*model, *adapter, examples, 8, options, directory.path()), 0.95);
}

TEST(OtherDevice, BenchMeasuresStepsAndTheRoofThere) {
  StepBenchOptions options;
  options.model = tiny_config(0.1);
  options.adapter.method = "msplora";
  options.adapter.target_modules = {"query", "value"};
  options.device = other_device();
  options.batch = 2;
  options.longest = 6;
  options.steps = 2;
  const StepBenchResult result = bench_step(options);
  EXPECT_EQ(result.roof_variant, "at::linear");
  EXPECT_GT(result.roof_share(), 0);
}

}  // namespace
}  // namespace msplora
