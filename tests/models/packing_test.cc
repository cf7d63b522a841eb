#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "models/small_config.h"
#include "msplora/core/error.h"
#include "msplora/models/model.h"
#include "msplora/nn/functional.h"

namespace msplora {
namespace {

bool is_decoder(const std::string& model_type) {
  return supports_task(model_type, ModelTask::kCausalLm);
}

ModelConfig small_config(const std::string& model_type) {
  nlohmann::json keys = {
      {"vocab_size", 50},         {"hidden_size", 24},          {"num_hidden_layers", 3},
      {"num_attention_heads", 3}, {"intermediate_size", 40},    {"max_position_embeddings", 34},
      {"initializer_range", 0.2}, {"hidden_dropout_prob", 0.1}, {"attention_probs_dropout_prob", 0.1},
      {"num_labels", 3}};
  if (model_type == "qwen2" || model_type == "mistral") keys["num_key_value_heads"] = 1;
  return model_test::small_config(model_type, keys);
}

PackedInput input_of(const std::vector<int32_t>& lengths, int64_t vocab) {
  PackedInput input;
  input.cu_seqlens = {0};
  for (const int32_t length : lengths) input.cu_seqlens.push_back(input.cu_seqlens.back() + length);
  input.input_ids = (at::arange(input.tokens(), at::kLong) * 7 + 3).remainder(vocab);
  return input;
}

PackedInput sequence_of(const PackedInput& batch, int64_t b) {
  PackedInput one;
  one.cu_seqlens = {0, batch.cu_seqlens[b + 1] - batch.cu_seqlens[b]};
  one.input_ids = batch.input_ids.slice(0, batch.cu_seqlens[b], batch.cu_seqlens[b + 1]).clone();
  return one;
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item<double>();
}

class Packing : public ::testing::TestWithParam<std::string> {};

// ModelLoadOptions::dropout takes the place of config.json's, in the blocks and in the head, and is not
// saved.
TEST_P(Packing, DropoutOfTheOptionsReplacesThatOfTheConfig) {
  ModelLoadOptions options;
  options.dropout = 0.0;
  const auto model = create_model(small_config(GetParam()), options);
  const PackedInput batch = input_of({5, 17}, 50);
  ForwardContext training;
  training.training = true;
  training.seed = 3;
  EXPECT_TRUE(at::equal(model->forward(batch, training), model->forward(batch, {})));
  EXPECT_EQ(model_config_to_json(model->config()).at("hidden_dropout_prob"), 0.1);
  options.dropout = 0.5;
  const auto dropping = create_model(small_config(GetParam()), options);
  EXPECT_FALSE(at::equal(dropping->forward(batch, training), dropping->forward(batch, {})));
}

TEST_P(Packing, BatchEqualsItsSequencesOneByOne) {
  ModelLoadOptions options;
  options.keep_float32 = true;
  const auto model = create_model(small_config(GetParam()), options);
  for (const Parameter& parameter : model->parameters()) parameter.values().set_requires_grad(true);
  const PackedInput batch = input_of({5, 1, 17, 32, 9}, 50);
  const at::Tensor weights = at::arange(15, at::kFloat).reshape({5, 3}) / 15 - 0.4;
  const at::Tensor together = model->forward(batch, {});
  (together * weights).sum().backward();
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : model->parameters()) {
    ASSERT_TRUE(parameter.values().grad().defined()) << parameter.name;
    gradients.push_back(parameter.values().grad().clone());
    parameter.values().grad().zero_();
  }
  for (int64_t b = 0; b < batch.sequences(); ++b) {
    const at::Tensor alone = model->forward(sequence_of(batch, b), {});
    EXPECT_LT(largest_difference(alone[0], together[b]), 1e-5) << "sequence " << b;
    (alone[0] * weights[b]).sum().backward();
  }
  const std::vector<Parameter> parameters = model->parameters();
  const LinearSpec* key = model->architecture().blocks[0].find(LinearRole::kKey);
  for (size_t i = 0; i < parameters.size(); ++i) {
    // The gradient of a key's bias is exactly zero in theory: softmax ignores a shift.
    if (key != nullptr && parameters[i].name.ends_with(key->name + ".bias")) continue;
    EXPECT_LT(largest_difference(parameters[i].values().grad(), gradients[i]), 2e-5) << parameters[i].name;
  }
}

TEST_P(Packing, GradientsMatchFiniteDifferencesInFloat64WithDropout) {
  ModelLoadOptions options;
  options.compute_dtype = at::kDouble;
  const auto model = create_model(small_config(GetParam()), options);
  ForwardContext context;
  context.training = true;
  context.seed = 5;
  const PackedInput batch = input_of({4, 6}, 50);
  const at::Tensor weights = at::arange(6, at::kDouble).reshape({2, 3}) / 6 - 0.4;
  const auto loss = [&] { return (model->forward(batch, context) * weights).sum(); };
  int checked = 0;
  for (const Parameter& parameter : model->parameters()) {
    if (parameter.values().scalar_type() != at::kDouble) continue;
    parameter.values().set_requires_grad(true);
    loss().backward();
    const at::Tensor gradient = parameter.values().grad().clone().reshape({-1});
    parameter.values().set_requires_grad(false);
    at::Tensor flat = parameter.values().view({-1});
    for (const int64_t i : {int64_t{0}, flat.numel() / 2}) {
      const double kept = flat[i].item<double>(), step = 1e-6;
      flat[i] = kept + step;
      const double up = loss().item<double>();
      flat[i] = kept - step;
      const double down = loss().item<double>();
      flat[i] = kept;
      EXPECT_NEAR(gradient[i].item<double>(), (up - down) / (2 * step), 1e-6) << parameter.name;
      ++checked;
    }
  }
  EXPECT_GT(checked, 40);
}

TEST_P(Packing, DropoutChangesWithTheStepAndNotOtherwise) {
  const auto model = create_model(small_config(GetParam()), {});
  const PackedInput batch = input_of({5, 7}, 50);
  ForwardContext context;
  context.training = true;
  const at::Tensor first = model->forward(batch, context);
  EXPECT_TRUE(at::equal(first, model->forward(batch, context)));
  context.step = 1;
  EXPECT_FALSE(at::equal(first, model->forward(batch, context)));
}

TEST_P(Packing, LanguageModelHeadRunsOnTheAskedRows) {
  ModelLoadOptions options;
  options.task = is_decoder(GetParam()) ? ModelTask::kCausalLm : ModelTask::kMaskedLm;
  const auto model = create_model(small_config(GetParam()), options);
  PackedInput batch = input_of({5, 7}, 50);
  const at::Tensor all = model->forward(batch, {});
  EXPECT_EQ(all.sizes(), (at::IntArrayRef{12, 50}));
  batch.output_rows = at::tensor(std::vector<int64_t>{1, 6, 11}, at::kLong);
  EXPECT_LT(largest_difference(model->forward(batch, {}), all.index_select(0, batch.output_rows)), 1e-6);
}

TEST_P(Packing, OutOfRangeInputIsRefused) {
  const auto model = create_model(small_config(GetParam()), {});
  PackedInput batch = input_of({5, 7}, 50);
  batch.input_ids[3] = 50;
  EXPECT_THROW(model->forward(batch, {}), Error);
  EXPECT_THROW(model->forward(input_of({35}, 50), {}), Error);
}

TEST_P(Packing, SitesAgreeWithTheShapeOnlyList) {
  const auto model = create_model(small_config(GetParam()), {});
  const std::vector<Site> real = model->sites();
  const std::vector<Site> shapes = sites_of_shape(model->config(), ModelTask::kSequenceClassification);
  ASSERT_EQ(real.size(), shapes.size());
  for (size_t i = 0; i < real.size(); ++i) {
    EXPECT_EQ(real[i].path, shapes[i].path);
    EXPECT_EQ(real[i].layer, shapes[i].layer);
    EXPECT_EQ(real[i].in_features, shapes[i].in_features);
    EXPECT_EQ(real[i].out_features, shapes[i].out_features);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Packing, ::testing::ValuesIn(supported_model_types()),
                         [](const auto& info) { return model_test::test_name(info.param); });

}  // namespace
}  // namespace msplora
