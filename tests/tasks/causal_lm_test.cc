#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>
#include <cmath>
#include <memory>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/error.h"
#include "msplora/nn/functional.h"
#include "msplora/tasks/inputs.h"
#include "msplora/tasks/target.h"
#include "msplora/train/trainer.h"
#include "temporary_directory.h"
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
    example.predicted = {{2, length}};
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
  BatchOptions batches;
  batches.batch_size = 6;
  const auto task = make_task("causal_lm", {});
  TrainingData data(*task, *model, all_of(examples), batches, validation_of(examples));
  const Batch batch = data.batch(0, 0);
  at::Tensor labels;
  const PackedInput input = packed_input_with_labels(batch, labels);
  EXPECT_EQ(labels.numel(), data.num_targets(batch));
  const double expected = cross_entropy_sum(model->forward(input, {}), labels).item<double>();
  EXPECT_NEAR(data.loss_sum(batch, {}).item<double>(), expected, 1e-4 * expected);
  const Evaluation evaluation = data.evaluate();
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
  const auto adapter = create_adapter(config, target_of(*model), 1);
  TrainOptions options;
  options.lr = 1e-2;
  options.epochs = 10;
  EXPECT_LT(share_of_loss_left(*model, *adapter, examples, 16, options, directory.path()), 0.7);
}

TEST(CausalLm, PromptsAloneAreRefused) {
  const auto model = tiny_llama();
  std::vector<TokenizedExample> examples = counting(2);
  for (TokenizedExample& example : examples) example.predicted = {{100, 200}};
  BatchOptions batches;
  batches.batch_size = 2;
  const auto task = make_task("causal_lm", {});
  EXPECT_THROW(TrainingData(*task, *model, all_of(examples), batches), Error);
  EXPECT_THROW(Evaluator(*task, *model, all_of(examples)), Error);
}

TEST(CausalLm, LabelsAreTheTokensThatFollowInTheSpans) {
  std::vector<TokenizedExample> examples(3);
  examples[0].ids = {5, 6, 7, 8};
  examples[0].predicted = {{2, 4}};
  examples[1].ids = {9, 10, 11};  // all of it
  examples[2].ids = {20, 21, 22, 23};
  examples[2].starts = {2};
  const auto task = make_task("causal_lm", {});
  const Batch batch = task->collate(all_of(examples), std::vector<uint32_t>{0, 1, 2}, 0);
  constexpr int64_t kNone = kIgnoredLabel;
  EXPECT_EQ(batch.labels, (std::vector<int64_t>{kNone, 7, 8, kNone, 10, 11, kNone, 21, kNone, 23, kNone}));
  EXPECT_EQ(task->num_targets(batch), task->count_targets(all_of(examples)));
}

TEST(CausalLm, PredictionsAreTheLogLikelihoodsOfEachExample) {
  const auto model = tiny_llama();
  const std::vector<TokenizedExample> examples = counting(5);
  const auto task = make_task("causal_lm", {});
  const std::vector<Prediction> predictions = predict(*task, *model, all_of(examples), 20, true);
  ASSERT_EQ(predictions.size(), examples.size());
  double sum = 0;
  int64_t tokens = 0;
  for (const Prediction& prediction : predictions) {
    sum -= prediction.json.at("log_likelihood").get<double>();
    tokens += prediction.json.at("tokens").get<int64_t>();
    EXPECT_EQ(prediction.cells.size(), task->prediction_columns(true).size());
  }
  EXPECT_EQ(tokens, task->count_targets(all_of(examples)));
  EXPECT_NEAR(sum / static_cast<double>(tokens),
              Evaluator(*task, *model, all_of(examples)).run().value("loss"), 1e-4);
}

}  // namespace
}  // namespace msplora
