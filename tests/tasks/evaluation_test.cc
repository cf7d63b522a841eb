#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "msplora/models/memory_estimate.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/tasks/inputs.h"
#include "msplora/tasks/prediction.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

TEST(Evaluator, AgreesWithOneExampleAtATime) {
  TinyRun run;
  const auto task = text_task(false, {"accuracy"});
  Evaluator evaluator(*task, *run.model, all_of(run.validation), 30);
  const Evaluation evaluation = evaluator.run();
  int64_t right = 0;
  double loss = 0.0;
  c10::NoGradGuard no_grad;
  for (uint32_t i = 0; i < run.validation.size(); ++i) {
    const Batch batch = batch_of(*run.task, run.validation, i);
    const at::Tensor logits = run.model->forward(packed_input(batch), {});
    right += logits.argmax(1).item<int64_t>() == run.validation[i].label;
    loss -= at::log_softmax(logits.to(at::kDouble), 1)[0][run.validation[i].label].item<double>();
  }
  const auto count = static_cast<double>(run.validation.size());
  EXPECT_DOUBLE_EQ(evaluation.value("accuracy"), static_cast<double>(right) / count);
  EXPECT_NEAR(evaluation.value("loss"), loss / count, 1e-5);
  EXPECT_EQ(evaluation.examples, static_cast<int64_t>(run.validation.size()));
  EXPECT_THAT(evaluator.metric_names(), testing::ElementsAre("accuracy", "loss"));
}

TEST(Evaluator, RefusesMetricsThatDoNotSuit) {
  TinyRun run;
  EXPECT_THROW(text_task(false, {"pearson"}), Error);
  EXPECT_THROW(text_task(true, {"f1"}), Error);
  const std::vector<TokenizedExample> none;
  EXPECT_THROW(Evaluator(*run.task, *run.model, all_of(none)), Error);
}

TEST(Predictions, ComeInTheOrderOfTheExamples) {
  TinyRun run;
  const at::Tensor logits = predict_logits(*run.model, run.validation, 25);
  c10::NoGradGuard no_grad;
  for (uint32_t i = 0; i < run.validation.size(); ++i) {
    const Batch batch = batch_of(*run.task, run.validation, i);
    const at::Tensor alone = run.model->forward(packed_input(batch), {});
    EXPECT_LT((alone[0] - logits[i]).abs().max().item<double>(), 1e-5);
  }
}

std::string written(PredictionLayout layout, const Task& task, const at::Tensor& logits,
                    const std::vector<nlohmann::ordered_json>& kept = {}, bool with_logits = false) {
  std::ostringstream out;
  layout.columns = task.prediction_columns(with_logits);
  PredictionWriter writer(out, std::move(layout));
  writer.write(task.predictions(logits, with_logits), kept,
               [](size_t row) { return "new.tsv:" + std::to_string(row + 2); });
  return out.str();
}

PredictionLayout layout_of(PredictionFormat format) {
  PredictionLayout layout;
  layout.format = format;
  return layout;
}

std::unique_ptr<Task> task_with(const std::vector<std::string>& labels) {
  TaskSettings settings;
  settings.labels = LabelMap::from_list(labels);
  return make_task("classification", std::move(settings));
}

TEST(Predictions, AreWrittenAsTsvAndJsonl) {
  at::Tensor logits = at::zeros({2, 2});
  logits[0][1] = 3.0f;
  logits[1][0] = 1.0f;
  EXPECT_EQ(written(layout_of(PredictionFormat::kTsv), *task_with({"no", "y\tes"}), logits),
            "prediction\tno\ty es\ny es\t0.047426\t0.952574\nno\t0.731059\t0.268941\n");
  std::istringstream lines(written(layout_of(PredictionFormat::kJsonl), *task_with({"no", "yes"}), logits));
  std::string line;
  std::getline(lines, line);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json.at("prediction"), "yes");
  EXPECT_NEAR(json.at("probabilities").at("no").get<double>(), 0.0474259, 1e-6);
  EXPECT_FALSE(json.contains("logits"));
  EXPECT_EQ(written(layout_of(PredictionFormat::kTsv), *text_task(true), at::full({1, 1}, 2.5F)),
            "prediction\n2.5\n");
}

TEST(Predictions, KeepColumnsAndQuoteThem) {
  at::Tensor logits = at::zeros({2, 2});
  logits[0][1] = 3.0f;
  auto task = task_with({"no", "yes, \"sure\""});
  PredictionLayout layout = layout_of(PredictionFormat::kCsv);
  layout.kept = {"id", "text"};
  const std::vector<nlohmann::ordered_json> kept = {{{"id", 7}, {"text", "two\nlines"}},
                                                    {{"id", "a;b"}, {"text", nullptr}}};
  EXPECT_EQ(written(layout, *task, logits, kept, true),
            "id,text,prediction,no,\"yes, \"\"sure\"\"\",logit:no,\"logit:yes, \"\"sure\"\"\"\n"
            "7,\"two\nlines\",\"yes, \"\"sure\"\"\",0.047426,0.952574,0,3\n"
            "a;b,,no,0.500000,0.500000,0,0\n");
  layout.delimiter = ';';
  EXPECT_THAT(written(layout, *task, logits, kept, true), testing::HasSubstr("\n\"a;b\";;no;"));
  layout.kept = {"id", "prediction"};
  EXPECT_THROW(written(layout, *task, logits, kept, true), Error);

  task = task_with({"no", "yes"});
  layout = layout_of(PredictionFormat::kJsonl);
  std::istringstream lines(written(layout, *task, logits, kept, true));
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(nlohmann::json::parse(line).at("id"), 7);
  EXPECT_EQ(nlohmann::json::parse(line).at("logits").at("yes"), 3.0);
  EXPECT_THROW(written(layout, *task, logits, {{{"logits", 1}}, {{"a", 2}}}, true), Error);
}

TEST(Predictions, OutputsThatAreNoNumbersNameTheirRow) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    TinyRun run;
    const c10::NoGradGuard no_grad;
    for (const Parameter& parameter : run.model->parameters()) {
      if (parameter.name == "classifier.out_proj.bias") at::Tensor(parameter.values()).fill_(bad);
    }
    const auto where = [](size_t row) { return "new.tsv:" + std::to_string(row + 2); };
    try {
      predict(*run.task, *run.model, all_of(run.validation, where));
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNumerics);
      EXPECT_EQ(error.where(), "new.tsv:2");
    }
  }
}

Architecture shape(const std::string& name, ModelTask task = ModelTask::kNone) {
  return describe(known_model_shape(name), task);
}

// Counts published with the models (encoders without pooler).
TEST(MemoryEstimate, CountsTheParametersOfKnownModels) {
  EXPECT_EQ(count_base_parameters(shape("roberta-base")), 124055040);
  EXPECT_EQ(count_base_parameters(shape("bert-base-uncased")), 108891648);
  EXPECT_EQ(count_base_parameters(shape("gpt2", ModelTask::kCausalLm)), 124439808);
  EXPECT_EQ(count_base_parameters(shape("llama-2-7b", ModelTask::kCausalLm)), 6738415616);
  EXPECT_EQ(count_base_parameters(shape("qwen2-0.5b", ModelTask::kCausalLm)), 494032768);
  EXPECT_EQ(count_base_parameters(shape("qwen3-0.6b", ModelTask::kCausalLm)), 596049920);
}

TEST(MemoryEstimate, FollowsItsFormula) {
  const Architecture architecture =
      describe(model_test::small_config("roberta", {{"vocab_size", 100},
                                                    {"hidden_size", 8},
                                                    {"num_hidden_layers", 2},
                                                    {"num_attention_heads", 2},
                                                    {"intermediate_size", 16},
                                                    {"max_position_embeddings", 20}}));
  MemoryQuestion question;
  question.trainable_parameters = 10;
  question.adapted = {LinearRole::kQuery, LinearRole::kDown};
  question.rank = 3;
  question.tokens_per_batch = 5;
  question.bytes_per_weight = 2;
  const MemoryEstimate estimate = estimate_memory(architecture, question);
  // Two blocks, positions and types in bfloat16; biases and norms in float32; words stay in the file.
  const int64_t vectors = 2 * (4 * 8 + 16 + 8 + 4 * 8);
  EXPECT_EQ(estimate.weights, 2 * (2 * (4 * 64 + 2 * 128) + (20 + 2) * 8) + 4 * vectors);
  EXPECT_EQ(estimate.trainable, 160);
  // Queries, keys, values, output; two norms; input of the queries; derivative and input of the last layer.
  const int64_t values = 4 * 8 + 2 * 8 + 8 + 2 * 16, floats = 2 + 2 * 3;
  const int64_t transient = 5 * 2 * (2 * 8 + 16);
  EXPECT_EQ(estimate.activations, 5 * (2 * (2 * values + 4 * floats) + 2 * 2 * 8) + transient);
  EXPECT_EQ(estimate.shared, 4 * 10);
  EXPECT_EQ(estimate.total(), estimate.weights + estimate.trainable + estimate.activations - estimate.shared);
}

}  // namespace
}  // namespace msplora
