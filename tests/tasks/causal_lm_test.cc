#include "msplora/train/causal_lm_task.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>
#include <cmath>
#include <memory>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/error.h"
#include "msplora/nn/functional.h"
#include "msplora/tasks/inputs.h"
#include "msplora/train/trainer.h"
#include "train/temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

/// Counting upwards from a drawn start, so that there is something to learn; the first tokens are a prompt.
std::vector<TokenizedExample> counting(size_t count) {
  RandomStream random(4, "counting");
  std::vector<TokenizedExample> examples(count);
  for (TokenizedExample& example : examples) {
    const auto start = static_cast<int32_t>(random.below(40)),
               length = static_cast<int32_t>(4 + random.below(8));
    for (int32_t i = 0; i < length; ++i) example.ids.push_back(start + i);
    example.prompt_tokens = 2;
  }
  return examples;
}

std::unique_ptr<Model> tiny_llama() {
  const ModelConfig config = tiny_config("llama", 0.0);
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  options.seed = 2;
  return create_model(config, options);
}

TEST(CausalLm, TheLossIsThatOfTheLogitsBehindThePrompts) {
  const auto model = tiny_llama();
  const std::vector<TokenizedExample> examples = counting(6);
  CausalLmTaskOptions options;
  options.batches.batch_size = 6;
  CausalLmTask task(*model, examples, &examples, options);
  const Batch batch = task.batch(0, 0);
  at::Tensor labels;
  const PackedInput input = packed_input_with_labels(batch, labels);
  EXPECT_EQ(labels.numel(), task.num_targets(batch));
  const double expected = cross_entropy_sum(model->forward(input, {}), labels).item<double>();
  EXPECT_NEAR(task.loss_sum(batch, {}).item<double>(), expected, 1e-4 * expected);
  const Evaluation evaluation = task.evaluate();
  const double mean = expected / static_cast<double>(labels.numel());
  EXPECT_NEAR(evaluation.metrics[0].second, mean, 1e-4 * mean);
  EXPECT_NEAR(evaluation.metrics[1].second, std::exp(mean), 1e-3 * std::exp(mean));
}

TEST(CausalLm, AnAdapterLearnsToCount) {
  const TemporaryDirectory directory;
  const auto model = tiny_llama();
  const std::vector<TokenizedExample> examples = counting(64);
  AdapterConfig config;
  config.rank = 8;
  config.target_modules = {"all-linear"};
  AdapterTarget target;
  target.model_type = "llama";
  target.task_type = "CAUSAL_LM";
  target.num_layers = 3;
  target.heads = {4, 4};
  target.sites = model->sites();
  target.parameters = model->parameters();
  const auto adapter = create_adapter(config, std::move(target), 1);
  CausalLmTaskOptions options;
  options.batches.batch_size = 16;
  CausalLmTask task(*model, examples, &examples, options);
  const double before = task.evaluate().metrics[0].second;
  TrainerSetup setup;
  setup.directory = directory.path();
  setup.method = config.method;
  setup.trainable = adapter->trainable();
  setup.adapter = adapter.get();
  setup.options.lr = 1e-2;
  setup.options.epochs = 10;
  Trainer(std::move(setup), task).run();
  EXPECT_LT(task.evaluate().metrics[0].second, 0.7 * before);
}

TEST(CausalLm, PromptsAloneAreRefused) {
  const auto model = tiny_llama();
  std::vector<TokenizedExample> examples = counting(2);
  for (TokenizedExample& example : examples) example.prompt_tokens = 100;
  CausalLmTaskOptions options;
  options.batches.batch_size = 2;
  EXPECT_THROW(CausalLmTask(*model, examples, nullptr, options), Error);
}

}  // namespace
}  // namespace msplora
