#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/adapters/merge.h"
#include "msplora/tasks/inputs.h"
#include "msplora/tasks/target.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

/// A tiny model with an adapter of one of the methods with tensors of their own.
struct SearchRun {
  explicit SearchRun(const AdapterConfig& config) {
    ModelLoadOptions load;
    load.num_labels = 2;
    load.seed = 5;
    model = create_model(tiny_config(0.1), load);
    // Support D scales the bias: a fresh model's biases of 0 would leave it without a gradient.
    for (const Parameter& parameter : model->parameters()) {
      if (parameter.name.ends_with(".bias")) at::Tensor(parameter.values()).fill_(0.1);
    }
    adapter = create_adapter(config, target_of(*model), 7);
    options.batch_size = 5;
    options.lr = 1e-2;
    options.max_steps = 18;
    options.eval_every = 6;
    options.save_every = 1;
    options.keep_checkpoints = 100;
  }

  TrainingResult run(const std::filesystem::path& directory, bool resume = false) {
    data =
        std::make_unique<TrainingData>(*task, *model, all_of(train), batch_options(options),
                                       validate ? validation_of(validation) : std::vector<NamedExamples>());
    TrainerSetup setup;
    setup.options = options;
    setup.directory = directory;
    setup.resume = resume;
    setup.method = adapter->config().method;
    setup.trainable = adapter->trainable();
    setup.adapter = adapter.get();
    return Trainer(std::move(setup), *data).run();
  }

  at::Tensor logits() {
    c10::NoGradGuard no_grad;
    return predict_logits(*model, validation);
  }

  std::vector<at::Tensor> values() const {
    std::vector<at::Tensor> values;
    for (const TrainableTensor& tensor : adapter->trainable())
      values.push_back(tensor.tensor.detach().clone());
    return values;
  }

  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;
  std::vector<TokenizedExample> train = tiny_examples(45, 1);
  std::vector<TokenizedExample> validation = tiny_examples(24, 2);
  bool validate = true;
  TrainOptions options;
  std::unique_ptr<Task> task = text_task();
  std::unique_ptr<TrainingData> data;
};

AdapterConfig glora() {
  AdapterConfig config;
  config.method = "glora";
  config.rank = 2;
  config.target_modules = {"query", "value", "intermediate.dense"};
  config.set("glora.population", 6);
  config.set("glora.generations", 2);
  config.set("glora.parents", 3);
  config.set("glora.max_parameters", 900);
  return config;
}

TEST(SearchTraining, EndsWithTheSearchedChoicesOfTheBestWeights) {
  TemporaryDirectory directory;
  SearchRun run(glora());
  const TrainingResult result = run.run(directory.path());
  ASSERT_FALSE(result.search.is_null());
  EXPECT_EQ(result.search["metric"].get<std::string>(), result.best_metric);
  EXPECT_LE(result.search["parameters"].get<int64_t>(), 900);
  EXPECT_LE(result.search["evaluations"].get<int64_t>(), 18);
  const Evaluation now = run.data->evaluate();
  EXPECT_EQ(result.search["evaluation"][result.best_metric].get<double>(), now.value(result.best_metric));
  EXPECT_EQ(result.search["score"].get<double>(), now.value(result.best_metric));
  const CheckpointStore store(directory.path());
  std::map<std::string, at::Tensor> best;
  for (const NamedTensor& stored : store.load_trainable(result.best_step)) best[stored.name] = stored.tensor;
  for (const TrainableTensor& now_trained : run.adapter->trainable()) {
    EXPECT_TRUE(at::equal(best.at(now_trained.name), now_trained.tensor)) << now_trained.name;
  }
  EXPECT_EQ(result.search["choices"], run.adapter->state().facts["choices"]);
}

TEST(SearchTraining, AResumedRunIsTheSame) {
  TemporaryDirectory whole_directory;
  SearchRun whole(glora());
  const TrainingResult expected = whole.run(whole_directory.path());
  TemporaryDirectory directory;
  SearchRun first(glora());
  first.options.stop_at = 7;
  EXPECT_TRUE(first.run(directory.path()).search.is_null());
  SearchRun second(glora());
  EXPECT_EQ(second.run(directory.path(), /*resume=*/true).search, expected.search);
  EXPECT_TRUE(all_equal(second.values(), whole.values()));
  // Continued once more when everything is done, it repeats the search.
  SearchRun third(glora());
  EXPECT_EQ(third.run(directory.path(), /*resume=*/true).search, expected.search);
}

AdapterConfig tuned_glora() {
  AdapterConfig config = glora();
  config.set("glora.tune_fraction", 0.3);  // 6 of 18 steps
  return config;
}

TEST(SearchTraining, TrainsTheFoundChoicesOn) {
  TemporaryDirectory directory;
  SearchRun run(tuned_glora());
  const TrainingResult result = run.run(directory.path());
  EXPECT_EQ(result.search["step"].get<int64_t>(), 12);
  EXPECT_GT(result.best_step, 12);
  EXPECT_EQ(run.adapter->state().facts["choices"], result.search["choices"]);
  // What the choices use has moved since the search, the rest has not.
  const CheckpointStore store(directory.path());
  std::map<std::string, at::Tensor> searched;
  for (const NamedTensor& stored : store.load_trainable(12)) searched[stored.name] = stored.tensor;
  const auto frozen = run.adapter->begin_step({12, 18}).frozen;
  ASSERT_FALSE(frozen.empty());
  size_t moved = 0;
  for (const TrainableTensor& now : run.adapter->trainable()) {
    const bool is_equal = at::equal(searched.at(now.name), now.tensor);
    if (std::find(frozen.begin(), frozen.end(), now.name) != frozen.end()) {
      EXPECT_TRUE(is_equal) << now.name;
    } else {
      moved += is_equal ? 0 : 1;
    }
  }
  EXPECT_GT(moved, 0u);
}

TEST(SearchTraining, AResumedRunWithTuningIsTheSame) {
  TemporaryDirectory whole_directory;
  SearchRun whole(tuned_glora());
  const TrainingResult expected = whole.run(whole_directory.path());
  for (const int64_t stop : {11, 12, 13}) {  // before the search, at its step, after it
    TemporaryDirectory directory;
    SearchRun first(tuned_glora());
    first.options.stop_at = stop;
    first.run(directory.path());
    SearchRun second(tuned_glora());
    const TrainingResult result = second.run(directory.path(), /*resume=*/true);
    EXPECT_EQ(result.search, expected.search) << stop;
    EXPECT_EQ(result.best_step, expected.best_step) << stop;
    EXPECT_TRUE(all_equal(second.values(), whole.values())) << stop;
  }
}

TEST(SearchTraining, TuningNeedsASearch) {
  AdapterConfig config = tuned_glora();
  config.set("glora.search", false);
  try {
    SearchRun run(config);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("tune_fraction"));
  }
}

TEST(SearchTraining, NeedsValidationData) {
  TemporaryDirectory directory;
  SearchRun run(glora());
  run.validate = false;
  try {
    run.run(directory.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfig);
    EXPECT_THAT(error.what(), testing::HasSubstr("search on validation data, but there is none"));
  }
}

class TensorMethods : public testing::TestWithParam<std::string> {
 protected:
  static AdapterConfig config() {
    AdapterConfig config = GetParam() == "glora" ? glora() : AdapterConfig();
    config.method = GetParam();
    config.rank = 4;
    if (GetParam() == "lorta") {
      config.set("lorta.alpha", 6.0);
      config.dropout = 0.1;
      config.target_modules = {"query", "key", "value", "attention.output.dense"};
    }
    return config;
  }
};

TEST_P(TensorMethods, LearnsAndMergesToTheSameLogits) {
  TemporaryDirectory directory;
  SearchRun run(config());
  const auto before = run.values();
  run.run(directory.path());
  EXPECT_FALSE(all_equal(before, run.values()));
  const at::Tensor adapted = run.logits();
  const std::vector<PackedInput> samples = {packed_input(run.data->batch(0, 0))};
  const std::vector<at::Tensor> before_merging = sample_logits(*run.model, samples);
  merge_adapter(*run.adapter, at::kFloat);
  const LogitDifference difference = compare_logits(before_merging, sample_logits(*run.model, samples));
  EXPECT_LT(difference.largest, 1e-5 * std::max(1.0, difference.largest_logit));
  EXPECT_LT((adapted - run.logits()).abs().max().item<double>(),
            1e-5 * adapted.abs().max().item<double>() + 1e-6);
}

TEST_P(TensorMethods, ResumesBitForBit) {
  TemporaryDirectory whole_directory;
  SearchRun whole(config());
  whole.run(whole_directory.path());
  TemporaryDirectory directory;
  SearchRun first(config());
  first.options.stop_at = 5;
  first.run(directory.path());
  SearchRun second(config());
  second.run(directory.path(), /*resume=*/true);
  EXPECT_TRUE(all_equal(second.values(), whole.values()));
}

INSTANTIATE_TEST_SUITE_P(Methods, TensorMethods, testing::Values("lorta", "ttlora", "glora"));

TEST(Merge, RefusesABiasThatTheModelHasNoPlaceFor) {
  AdapterConfig config = glora();
  config.set("glora.add_bias", true);
  SearchRun run(glora());
  const Site site = run.adapter->sites()[0];
  run.adapter.reset();
  site.linear->bias = at::Tensor();
  AdapterTarget target;
  target.num_layers = 3;
  target.sites = run.model->sites();
  target.parameters = run.model->parameters();
  const auto adapter = create_adapter(config, target, 1);
  EXPECT_TRUE(adapter->change_of(0).bias.defined());
  try {
    merge_adapter(*adapter, at::kFloat);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.what(), testing::HasSubstr("gives the layer a bias"));
  }
}

}  // namespace
}  // namespace msplora
