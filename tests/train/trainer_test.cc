#include "msplora/train/trainer.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/core/interrupt.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

TEST(Trainer, LearnsATaskThatCanBeLearned) {
  TemporaryDirectory directory;
  TinyRun run(0.0);
  run.train = tiny_examples(200, 1);
  run.options.epochs = 8;
  const TrainingResult result = run.run(directory.path());
  EXPECT_EQ(result.steps, 8 * 34);
  ASSERT_TRUE(result.best);
  EXPECT_GT(result.best->value("accuracy"), 0.9);
  EXPECT_LT(result.last_loss, 0.3);
  EXPECT_EQ(result.best_metric, "accuracy");
  EXPECT_GT(result.tokens_per_second, 0.0);
}

TEST(Trainer, RegressionRunsTheSameEngine) {
  TemporaryDirectory directory;
  TinyRun run(0.0, /*is_regression=*/true);
  run.options.epochs = 6;
  const TrainingResult result = run.run(directory.path());
  EXPECT_EQ(result.best_metric, run.data->metric_names().front());
  EXPECT_LT(result.last->value("loss"), 0.08);  // the variance of the targets
}

TEST(Trainer, MicroBatchesEqualOneBigBatch) {
  TinyRun big(0.0);
  TinyRun small(0.0);
  big.options.batch_size = 12;
  small.options.batch_size = 3;
  small.options.accumulation = 4;
  for (TinyRun* run : {&big, &small}) {
    run->validate = false;
    run->options.max_steps = 5;
  }
  // Unequal micro-batches: the order is that of the data, so both see the same twelve examples a step.
  TemporaryDirectory directory;
  for (TinyRun* run : {&big, &small}) {
    run->batches = batch_options(run->options);
    run->batches.shuffle = false;
    run->batches.bucket = false;
    TrainingData data(*run->task, *run->model, all_of(run->train), run->batches);
    Trainer(run->setup(directory.path()), data).run();
  }
  const auto a = big.values();
  const auto b = small.values();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_LT((a[i] - b[i]).abs().max().item<double>(), 2e-5) << i;
}

/// Throws at a step, and counts how often it hears of the end.
class FailingSink : public EventSink {
 public:
  FailingSink(int64_t at_step, int& ends) : at_step_(at_step), ends_(ends) {}
  void on_step(const StepReport& report) override {
    if (report.step == at_step_) throw Error(ErrorCode::kIo, "sink", "no space left");
  }
  void on_end() override { ++ends_; }

 private:
  int64_t at_step_;
  int& ends_;
};

TEST(Trainer, EverySinkHearsOfTheEndOnceAlsoWhenOneThrows) {
  for (const bool fails : {false, true}) {
    TemporaryDirectory directory;
    TinyRun run;
    run.options.max_steps = 3;
    TrainerSetup setup = run.setup(directory.path());
    int failing = 0, other = 0;
    setup.sinks.push_back(std::make_unique<FailingSink>(fails ? 2 : -1, failing));
    setup.sinks.push_back(std::make_unique<FailingSink>(-1, other));
    Trainer trainer(std::move(setup), run.make_data());
    if (fails) {
      EXPECT_THROW(trainer.run(), Error);
    } else {
      trainer.run();
    }
    EXPECT_EQ(failing, 1);
    EXPECT_EQ(other, 1);
  }
}

TEST(Trainer, NothingTrainableIsAnError) {
  TemporaryDirectory directory;
  TinyRun run;
  run.trainable.clear();
  EXPECT_THROW(run.run(directory.path()), Error);
}

TEST(Trainer, ATensorOutsideTheModelStopsTheRun) {
  TemporaryDirectory directory;
  TinyRun run;
  run.trainable.push_back({"stray.lora_A", at::ones({2, 2}).requires_grad_(true)});
  try {
    run.run(directory.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfig);
    EXPECT_THAT(error.message(), testing::HasSubstr("never got a gradient"));
    EXPECT_THAT(error.message(), testing::HasSubstr("stray.lora_A"));
    EXPECT_THAT(error.message(), testing::Not(testing::HasSubstr("query")));
  }
}

TEST(Trainer, AnInfiniteLossStopsTheRunAndKeepsTheCheckpoint) {
  TemporaryDirectory directory;
  TinyRun run;
  run.options.save_every = 2;
  run.options.stop_at = 4;
  run.run(directory.path());
  ASSERT_TRUE(fs::exists(directory.path() / "checkpoint-4"));
  TinyRun again;
  again.options.save_every = 2;
  again.where = [](size_t example) { return "train.tsv:" + std::to_string(example + 2); };
  TrainingData& data = again.make_data();
  TrainerSetup setup = again.setup(directory.path(), /*resume=*/true);
  Trainer trainer(std::move(setup), data);
  {
    c10::NoGradGuard no_grad;  // not a trained tensor, so the checkpoint does not mend it
    again.model->parameters().front().values().fill_(std::numeric_limits<float>::quiet_NaN());
  }
  try {
    trainer.run();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumerics);
    EXPECT_THAT(error.what(), testing::HasSubstr("step 5, micro-batch 1"));
    EXPECT_THAT(error.what(), testing::HasSubstr("train.tsv:"));
  }
  EXPECT_TRUE(fs::exists(directory.path() / "checkpoint-4"));
}

TEST(Trainer, AnInterruptSavesACheckpoint) {
  TemporaryDirectory directory;
  TinyRun run;
  request_interrupt();
  try {
    run.run(directory.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
    EXPECT_THAT(error.what(), testing::HasSubstr("checkpoint-1"));
  }
  clear_interrupt();
  EXPECT_TRUE(fs::exists(directory.path() / "checkpoint-1" / "state.json"));
  TinyRun rest;
  rest.run(directory.path(), /*resume=*/true);
  TemporaryDirectory whole_directory;
  TinyRun whole;
  whole.run(whole_directory.path());
  EXPECT_TRUE(all_equal(rest.values(), whole.values()));
}

/// Plays a list of metric values, so that choices can be checked against known ones.
class ScriptedData : public TrainingData {
 public:
  using TrainingData::TrainingData;
  bool can_evaluate() const override { return true; }
  std::vector<std::string> metric_names() const override { return {"score", "loss"}; }
  Evaluation evaluate() override {
    const double score = script[std::min(calls++, script.size() - 1)];
    seen.push_back(model_values());
    return Evaluation{{{"score", score}, {"loss", -score}}, 1, 1, 0.0};
  }
  std::function<std::vector<at::Tensor>()> model_values;
  std::vector<double> script;
  std::vector<std::vector<at::Tensor>> seen;
  size_t calls = 0;
};

TrainingResult run_script(TinyRun& run, ScriptedData& data, const fs::path& directory) {
  data.model_values = [&run] { return run.values(); };
  run.options.eval_every = 1;
  return Trainer(run.setup(directory), data).run();
}

TEST(Trainer, EndsWithTheBestWeightsAndKeepsTheirCheckpoint) {
  TemporaryDirectory directory;
  TinyRun run;
  run.options.max_steps = 5;
  run.batches = batch_options(run.options);
  ScriptedData data(*run.task, *run.model, all_of(run.train), run.batches);
  data.script = {0.1, 0.5, std::nan(""), 0.5, 0.2};
  const TrainingResult result = run_script(run, data, directory.path());
  EXPECT_EQ(result.best_step, 2);
  EXPECT_EQ(result.best->value("score"), 0.5);
  EXPECT_EQ(result.last->value("score"), 0.2);
  EXPECT_TRUE(all_equal(run.values(), data.seen[1]));
  EXPECT_FALSE(all_equal(run.values(), data.seen[4]));
  EXPECT_THAT(CheckpointStore(directory.path()).steps(), testing::ElementsAre(2, 5));
}

TEST(Trainer, SmallerLossesAreBetterAndLastWeightsStayOnRequest) {
  TemporaryDirectory directory;
  TinyRun run;
  run.options.max_steps = 3;
  run.options.best_metric = "loss";
  run.options.load_best_at_end = false;
  run.batches = batch_options(run.options);
  ScriptedData data(*run.task, *run.model, all_of(run.train), run.batches);
  data.script = {0.1, 0.7, 0.3};
  const TrainingResult result = run_script(run, data, directory.path());
  EXPECT_EQ(result.best_step, 2);
  EXPECT_TRUE(all_equal(run.values(), data.seen[2]));
}

TEST(Trainer, StopsEarly) {
  TemporaryDirectory directory;
  TinyRun run;
  run.options.max_steps = 20;
  run.options.early_stopping_patience = 3;
  run.batches = batch_options(run.options);
  ScriptedData data(*run.task, *run.model, all_of(run.train), run.batches);
  data.script = {0.1, 0.2, 0.1, 0.15, 0.2, 0.9};
  const TrainingResult result = run_script(run, data, directory.path());
  EXPECT_TRUE(result.stopped_early);
  EXPECT_EQ(result.steps, 5);
  EXPECT_EQ(result.best_step, 2);
}

TEST(Trainer, AnUnknownBestMetricIsReportedBeforeTraining) {
  TemporaryDirectory directory;
  TinyRun run;
  run.options.best_metric = "acuracy";
  try {
    run.run(directory.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("`accuracy`"));
  }
  EXPECT_FALSE(fs::exists(directory.path() / "metrics.jsonl"));
}

TEST(Trainer, WritesOneJsonObjectPerLogLineAndEvaluation) {
  TemporaryDirectory directory;
  TinyRun run;
  const TrainingResult result = run.run(directory.path());
  std::istringstream lines(read_file(directory.path() / "metrics.jsonl"));
  int logs = 0;
  int evaluations = 0;
  double last_lr = 1.0;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.at("kind") == "train") {
      ++logs;
      EXPECT_LT(json.at("lr").get<double>(), last_lr);
      last_lr = json.at("lr");
    } else {
      ++evaluations;
      EXPECT_TRUE(json.contains("accuracy") && json.contains("loss"));
    }
  }
  EXPECT_EQ(result.steps, 18);  // 50 examples by 6, twice
  EXPECT_EQ(logs, 9);
  EXPECT_EQ(evaluations, 2);
}

/// The lines of metrics.jsonl.
int64_t lines_in(const fs::path& directory) {
  const std::string text = read_file(directory / "metrics.jsonl");
  return std::count(text.begin(), text.end(), '\n');
}

std::vector<std::string> event_files(const fs::path& directory) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("events.out.tfevents")) names.push_back(name);
  }
  return names;
}

// A sink owns its files: a fresh run begins them anew, a resumed one goes on with them, and without the sink
// nobody touches them.
TEST(Trainer, FilesOfSinksAreTheirOwn) {
  TemporaryDirectory directory;
  const auto run_with = [&](bool has_sinks, bool resume, int64_t stop_at) {
    TinyRun run;
    run.options.stop_at = stop_at;
    TrainingData& data = run.make_data();
    TrainerSetup setup = run.setup(directory.path(), resume);
    if (has_sinks) {
      setup.sinks.push_back(make_tensorboard_sink(directory.path()));
    } else {
      setup.sinks.clear();
    }
    Trainer(std::move(setup), data).run();
  };
  run_with(true, false, 0);
  EXPECT_EQ(lines_in(directory.path()), 11);  // 9 of steps, 2 of evaluations
  const std::vector<std::string> first = event_files(directory.path());
  EXPECT_EQ(first.size(), 1u);
  run_with(false, false, 0);
  EXPECT_EQ(lines_in(directory.path()), 11);
  EXPECT_EQ(event_files(directory.path()), first);
  run_with(true, false, 4);
  EXPECT_EQ(lines_in(directory.path()), 2);
  EXPECT_EQ(event_files(directory.path()).size(), 1u);
  run_with(true, true, 0);
  EXPECT_EQ(lines_in(directory.path()), 11);
  EXPECT_EQ(event_files(directory.path()).size(), 2u);
}

TEST(OptimizerGroups, HeadHasItsOwnRateAndVectorsAreNotDecayed) {
  TinyRun run;
  run.options.head_lr = 0.25;
  run.options.weight_decay = 0.1;
  const auto groups = optimizer_groups(run.options, run.trainable);
  for (const OptimizerGroup& group : groups) {
    for (const NamedTensor& tensor : group.tensors) {
      EXPECT_EQ(group.weight_decay, tensor.tensor.dim() < 2 ? 0.0 : 0.1) << tensor.name;
      EXPECT_EQ(group.lr, tensor.name.starts_with("classifier") ? 0.25 : run.options.lr) << tensor.name;
    }
  }
}

TEST(Trainer, PretrainingTrainsEveryParameter) {
  TemporaryDirectory directory;
  MlmVocabulary vocabulary;
  vocabulary.mask_id = 3;
  vocabulary.special.assign(60, 0);
  for (int i = 0; i < 5; ++i) vocabulary.special[static_cast<size_t>(i)] = 1;
  vocabulary.continuation.assign(60, 0);
  vocabulary.prefix = {0};
  vocabulary.suffix = {2};
  TextCorpus corpus(vocabulary);
  RandomStream random(1, "corpus");
  for (int line = 0; line < 60; ++line) {  // runs of consecutive ids: a neighbour tells the masked token
    std::vector<int32_t> ids;
    const auto start = static_cast<int32_t>(5 + random.below(40));
    for (int32_t i = 0; i < 8; ++i) ids.push_back(start + i);
    corpus.add_line(ids, 32);
  }
  ModelLoadOptions load;
  load.task = ModelTask::kMaskedLm;
  load.keep_float32 = true;
  load.seed = 1;
  const auto model = create_model(tiny_config(0.1), load);
  const auto before = [&] {
    std::vector<at::Tensor> values;
    for (const auto& parameter : model->parameters()) values.push_back(parameter.values().detach().clone());
    return values;
  }();
  TrainOptions options;
  options.lr = 2e-3;
  options.epochs = 100;
  options.token_budget = 100;
  options.schedule = "cosine";
  options.warmup_steps = 5;
  MaskOptions mask;
  mask.seed = 3;
  TaskSettings settings;
  settings.mask = mask;
  settings.vocabulary = vocabulary;
  const auto task = make_task("masked_lm", std::move(settings));
  TrainingData data(*task, *model, all_of(corpus), batch_options(options), {{"validation", all_of(corpus)}},
                    500);
  const double loss_before = data.evaluate().value("loss");
  TrainerSetup setup;
  setup.options = options;
  setup.directory = directory.path();
  setup.method = "full";
  setup.trainable = all_trainable(model->parameters());
  const TrainingResult result = Trainer(std::move(setup), data).run();
  EXPECT_EQ(result.best_metric, "loss");
  EXPECT_LT(result.best->value("loss"), 0.7 * loss_before);
  EXPECT_NEAR(result.best->value("perplexity"), std::exp(result.best->value("loss")), 1e-9);
  size_t index = 0;
  for (const auto& parameter : model->parameters()) {
    EXPECT_FALSE(at::equal(parameter.values(), before[index++])) << parameter.name << " was not trained";
  }
}

}  // namespace
}  // namespace msplora
