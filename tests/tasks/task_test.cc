// What every task keeps to, and how rows become batches.
#include "msplora/tasks/task.h"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/tasks/evaluator.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

MlmVocabulary small_vocabulary() {
  MlmVocabulary vocabulary;
  vocabulary.mask_id = 4;
  vocabulary.special.assign(60, 0);
  for (size_t i = 0; i < 5; ++i) vocabulary.special[i] = 1;
  vocabulary.continuation.assign(60, 0);
  vocabulary.prefix = {0};
  vocabulary.suffix = {2};
  return vocabulary;
}

/// A task and a model with its head, both small.
struct TaskRow {
  explicit TaskRow(const TaskKind& kind) {
    TaskSettings settings;
    if (kind.labels == LabelKind::kClass) settings.labels = LabelMap::from_list({"0", "1"});
    if (kind.head == ModelTask::kMaskedLm) settings.vocabulary = small_vocabulary();
    task = make_task(kind.name, std::move(settings));
    const ModelConfig config = kind.head == ModelTask::kCausalLm ? tiny_config("llama", 0.0) : tiny_config();
    ModelLoadOptions load;
    load.task = kind.head;
    load.num_labels = std::max<int64_t>(1, task->num_outputs());
    load.seed = 5;
    model = create_model(config, load);
  }

  std::unique_ptr<Task> task;
  std::unique_ptr<Model> model;
  std::vector<TokenizedExample> examples = tiny_examples(9, 1);
};

class EveryTask : public testing::TestWithParam<std::string> {
 protected:
  TaskRow row{task_kind(GetParam())};
};

TEST_P(EveryTask, LossesOfPartsAddUpToThatOfTheWhole) {
  const Examples all = all_of(row.examples);
  const std::vector<uint32_t> whole = {0, 1, 2, 3, 4, 5, 6, 7, 8}, left = {0, 1, 2, 3},
                              right = {4, 5, 6, 7, 8};
  const c10::NoGradGuard no_grad;
  const auto sum = [&](const std::vector<uint32_t>& indices) {
    return row.task->loss_sum(*row.model, row.task->collate(all, indices, 0), {}).item<double>();
  };
  const auto targets = [&](const std::vector<uint32_t>& indices) {
    return row.task->num_targets(row.task->collate(all, indices, 0));
  };
  EXPECT_NEAR(sum(left) + sum(right), sum(whole), 1e-4 * sum(whole));
  EXPECT_EQ(targets(left) + targets(right), targets(whole));
  EXPECT_GT(targets(left), 0);
}

TEST_P(EveryTask, BatchesDependOnEpochAndExamplesAlone) {
  const Examples all = all_of(row.examples);
  const Batch a = row.task->collate(all, std::vector<uint32_t>{4, 2}, 3);
  const Batch b = row.task->collate(all, std::vector<uint32_t>{2, 1, 4}, 3);
  const size_t first = row.examples[4].ids.size(), last = b.tokens() - first;
  EXPECT_TRUE(std::equal(a.input_ids.begin(), a.input_ids.begin() + static_cast<int64_t>(first),
                         b.input_ids.begin() + static_cast<int64_t>(last)));
  const Batch again = row.task->collate(all, std::vector<uint32_t>{4, 2}, 3);
  EXPECT_EQ(a.input_ids, again.input_ids);
  EXPECT_EQ(a.labels, again.labels);
  EXPECT_EQ(a.targets, again.targets);
  EXPECT_THROW(row.task->collate(all, {}, 0), Error);
  EXPECT_THROW(row.task->collate(all, std::vector<uint32_t>{100}, 0), Error);
}

TEST_P(EveryTask, EvaluationGivesItsMetricsAndTheLossOfTheTraining) {
  const Examples all = all_of(row.examples);
  const Evaluation evaluation = Evaluator(*row.task, *row.model, all, 40).run();
  EXPECT_EQ(evaluation.names(), row.task->metrics());
  EXPECT_EQ(evaluation.examples, 9);
  const c10::NoGradGuard no_grad;
  const Batch batch =
      row.task->collate(all, std::vector<uint32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}, kEvaluationEpoch);
  const double sum = row.task->loss_sum(*row.model, batch, {}).item<double>();
  EXPECT_NEAR(evaluation.value("loss"), sum / static_cast<double>(row.task->num_targets(batch)), 1e-4);
}

TEST_P(EveryTask, PredictionsHaveTheirColumns) {
  if (row.task->num_outputs() == 0 && task_kind(GetParam()).peft_type.empty()) {
    EXPECT_THROW(row.task->prediction_columns(false), Error);
    return;
  }
  for (const bool details : {false, true}) {
    const auto predictions = predict(*row.task, *row.model, all_of(row.examples), 30, details);
    ASSERT_EQ(predictions.size(), row.examples.size());
    for (const Prediction& prediction : predictions)
      EXPECT_EQ(prediction.cells.size(), row.task->prediction_columns(details).size());
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, EveryTask, testing::ValuesIn(task_names()),
                         [](const auto& info) { return info.param; });

TEST(Tasks, UnknownNamesGetTheNearest) {
  try {
    task_kind("clasification");
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfig);
    EXPECT_THAT(error.what(), HasSubstr("classification"));
  }
  TaskSettings settings;
  settings.metrics = {"matthews"};
  EXPECT_THROW(make_task("causal_lm", settings), Error);
  EXPECT_THROW(make_task("classification", {}), Error);
}

TEST(Tasks, ClassesAndNumbersBecomeLabelsAndTargets) {
  const std::vector<TokenizedExample> examples = {{{1, 2, 3}, {}, 1, 0.5}, {{6}, {}, kIgnoredLabel, 0.0}};
  const std::vector<uint32_t> both = {1, 0};
  const Batch classes = text_task()->collate(all_of(examples), both, 0);
  EXPECT_THAT(classes.labels, ElementsAre(kIgnoredLabel, 1));
  EXPECT_THAT(classes.targets, IsEmpty());
  EXPECT_EQ(text_task()->num_targets(classes), 1);
  const Batch numbers = text_task(true)->collate(all_of(examples), both, 0);
  EXPECT_THAT(numbers.targets, ElementsAre(0.0F, 0.5F));
  EXPECT_THAT(numbers.labels, IsEmpty());
}

TEST(Tasks, MasksDependOnSeedEpochAndExampleAlone) {
  TextCorpus corpus(small_vocabulary());
  for (int32_t line = 0; line < 20; ++line) {
    std::vector<int32_t> ids(30);
    for (int32_t i = 0; i < 30; ++i) ids[static_cast<size_t>(i)] = 5 + (i * 3 + line) % 50;
    corpus.add_line(ids, 64);
  }
  const auto task_of = [&](uint64_t seed, bool first_token = false) {
    TaskSettings settings;
    settings.vocabulary = small_vocabulary();
    settings.mask.seed = seed;
    settings.mask.first_token = first_token;
    return make_task("masked_lm", std::move(settings));
  };
  const std::vector<uint32_t> first = {4, 9}, second = {9, 1, 4};
  const Batch a = task_of(0)->collate(all_of(corpus), first, 2),
              b = task_of(0)->collate(all_of(corpus), second, 2);
  EXPECT_THAT(a.cu_seqlens, ElementsAre(0, 32, 64));
  EXPECT_TRUE(std::equal(a.input_ids.begin() + 32, a.input_ids.end(), b.input_ids.begin()));
  EXPECT_TRUE(std::equal(a.labels.begin() + 32, a.labels.end(), b.labels.begin()));
  EXPECT_TRUE(std::equal(a.labels.begin(), a.labels.begin() + 32, b.labels.begin() + 64));
  EXPECT_EQ(a.labels.size(), a.tokens());
  EXPECT_NE(task_of(0)->collate(all_of(corpus), first, 3).labels, a.labels);
  EXPECT_NE(task_of(1)->collate(all_of(corpus), first, 2).labels, a.labels);
  // The first token learns, but is not measured.
  EXPECT_NE(task_of(0, true)->collate(all_of(corpus), first, 2).labels[0], kIgnoredLabel);
  EXPECT_EQ(task_of(0, true)->collate(all_of(corpus), first, kEvaluationEpoch).labels[0], kIgnoredLabel);
}

TEST(Tasks, SeveralPartsHaveTheirNamesInTheMetrics) {
  TinyRun run;
  Evaluator both(*run.task, *run.model, {{"a", all_of(run.train)}, {"b", all_of(run.validation)}});
  const Evaluation evaluation = both.run();
  EXPECT_EQ(evaluation.names(), both.metric_names());
  EXPECT_THAT(evaluation.names().front(), HasSubstr("a_"));
  EXPECT_EQ(evaluation.value("b_loss"),
            Evaluator(*run.task, *run.model, all_of(run.validation)).run().value("loss"));
  EXPECT_EQ(evaluation.confusion.size(), 2u);
  EXPECT_EQ(evaluation.confusion[1].first, "b");
  EXPECT_EQ(evaluation.examples, 70);
}

}  // namespace
}  // namespace msplora
