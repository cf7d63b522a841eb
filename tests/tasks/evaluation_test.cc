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
#include "msplora/tasks/predictions.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

TEST(Evaluator, AgreesWithOneExampleAtATime) {
  TinyRun run;
  ExampleEvaluator evaluator(*run.model, run.validation, {false, {"accuracy"}, 30});
  const Evaluation evaluation = evaluator.run();
  int64_t right = 0;
  double loss = 0.0;
  c10::NoGradGuard no_grad;
  for (uint32_t i = 0; i < run.validation.size(); ++i) {
    const Batch batch = collate(run.validation, std::vector<uint32_t>{i}, false);
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
  EXPECT_THROW(ExampleEvaluator(*run.model, run.validation, {false, {"pearson"}, 30}), Error);
  EXPECT_THROW(ExampleEvaluator(*run.model, {}, {}), Error);
}

TEST(Predictions, ComeInTheOrderOfTheExamples) {
  TinyRun run;
  const at::Tensor logits = predict_logits(*run.model, run.validation, 25);
  c10::NoGradGuard no_grad;
  for (uint32_t i = 0; i < run.validation.size(); ++i) {
    const Batch batch = collate(run.validation, std::vector<uint32_t>{i}, false);
    const at::Tensor alone = run.model->forward(packed_input(batch), {});
    EXPECT_LT((alone[0] - logits[i]).abs().max().item<double>(), 1e-5);
  }
}

std::string written(PredictionLayout layout, const at::Tensor& logits,
                    const std::vector<nlohmann::ordered_json>& kept = {}) {
  std::ostringstream out;
  PredictionWriter writer(out, std::move(layout));
  writer.write(logits, kept, [](int64_t row) { return "new.tsv:" + std::to_string(row + 2); });
  return out.str();
}

PredictionLayout layout_of(PredictionFormat format, std::vector<std::string> labels) {
  PredictionLayout layout;
  layout.format = format;
  layout.labels = std::move(labels);
  return layout;
}

TEST(Predictions, AreWrittenAsTsvAndJsonl) {
  at::Tensor logits = at::zeros({2, 2});
  logits[0][1] = 3.0f;
  logits[1][0] = 1.0f;
  EXPECT_EQ(written(layout_of(PredictionFormat::kTsv, {"no", "y\tes"}), logits),
            "prediction\tno\ty es\ny es\t0.047426\t0.952574\nno\t0.731059\t0.268941\n");
  std::istringstream lines(written(layout_of(PredictionFormat::kJsonl, {"no", "yes"}), logits));
  std::string line;
  std::getline(lines, line);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json.at("prediction"), "yes");
  EXPECT_NEAR(json.at("probabilities").at("no").get<double>(), 0.0474259, 1e-6);
  EXPECT_FALSE(json.contains("logits"));
  EXPECT_EQ(written(layout_of(PredictionFormat::kTsv, {}), at::full({1, 1}, 2.5)), "prediction\n2.5\n");
  EXPECT_THROW(written(layout_of(PredictionFormat::kTsv, {"one"}), at::full({1, 2}, 2.5)), Error);
}

TEST(Predictions, KeepColumnsAndQuoteThem) {
  at::Tensor logits = at::zeros({2, 2});
  logits[0][1] = 3.0f;
  PredictionLayout layout = layout_of(PredictionFormat::kCsv, {"no", "yes, \"sure\""});
  layout.kept = {"id", "text"};
  layout.with_logits = true;
  const std::vector<nlohmann::ordered_json> kept = {{{"id", 7}, {"text", "two\nlines"}},
                                                    {{"id", "a;b"}, {"text", nullptr}}};
  EXPECT_EQ(written(layout, logits, kept),
            "id,text,prediction,no,\"yes, \"\"sure\"\"\",logit:no,\"logit:yes, \"\"sure\"\"\"\n"
            "7,\"two\nlines\",\"yes, \"\"sure\"\"\",0.047426,0.952574,0,3\n"
            "a;b,,no,0.500000,0.500000,0,0\n");
  layout.delimiter = ';';
  EXPECT_THAT(written(layout, logits, kept), testing::HasSubstr("\n\"a;b\";;no;"));
  layout.kept = {"id", "prediction"};
  EXPECT_THROW(written(layout, logits, kept), Error);

  layout = layout_of(PredictionFormat::kJsonl, {"no", "yes"});
  layout.with_logits = true;
  std::istringstream lines(written(layout, logits, kept));
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(nlohmann::json::parse(line).at("id"), 7);
  EXPECT_EQ(nlohmann::json::parse(line).at("logits").at("yes"), 3.0);
  EXPECT_THROW(written(layout, logits, {{{"logits", 1}}, {{"a", 2}}}), Error);
}

TEST(Predictions, OutputsThatAreNoNumbersNameTheirRow) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    at::Tensor logits = at::zeros({3, 2});
    logits[2][1] = bad;
    for (const auto format : {PredictionFormat::kTsv, PredictionFormat::kCsv, PredictionFormat::kJsonl}) {
      try {
        written(layout_of(format, {"no", "yes"}), logits);
        ADD_FAILURE() << "nothing was thrown";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kNumerics);
        EXPECT_EQ(error.where(), "new.tsv:4");
      }
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
  question.adapted_inputs = 16;
  question.tokens_per_batch = 5;
  question.bytes_per_weight = 2;
  const MemoryEstimate estimate = estimate_memory(architecture, question);
  EXPECT_EQ(estimate.weights, 2 * estimate.model_parameters);
  EXPECT_EQ(estimate.trainable, 160);
  EXPECT_EQ(estimate.activations, 5 * 2 * (2 * (16 + 16 + 16 + 32 + 16) + 16));
  EXPECT_EQ(estimate.total(), estimate.weights + estimate.trainable + estimate.activations);
}

}  // namespace
}  // namespace msplora
