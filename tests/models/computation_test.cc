// What a model computes with beside its weights, by which adapters know their base again.
#include "msplora/models/computation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/small_config.h"
#include "msplora/models/model_config.h"

namespace msplora {
namespace {

using nlohmann::json;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

json computation(const std::string& model_type, const json& keys, ModelTask task = ModelTask::kNone) {
  json given = {{"vocab_size", 60},         {"hidden_size", 32},       {"num_hidden_layers", 4},
                {"num_attention_heads", 4}, {"intermediate_size", 64}, {"max_position_embeddings", 64},
                {"layer_norm_eps", 1e-5}};
  if (!keys.is_null()) given.update(keys);
  return computation_of(describe(model_test::small_config(model_type, given), task));
}

void expect_difference(const std::string& model_type, const json& keys, const std::string& name,
                       ModelTask task = ModelTask::kNone) {
  EXPECT_THAT(computation_differences(computation(model_type, {}, task), computation(model_type, keys, task)),
              Contains(HasSubstr(name + ": ")))
      << model_type << keys;
}

TEST(Computation, ChangesWithEverythingThatChangesResults) {
  expect_difference("llama", {{"rope_theta", 500000.0}}, "rope_theta");
  expect_difference("llama", {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}}},
                    "rope_frequencies");
  expect_difference("llama", {{"rms_norm_eps", 1e-3}}, "norm_eps");
  expect_difference("llama", {{"hidden_act", "gelu"}}, "hidden_act");
  expect_difference("llama", {{"num_attention_heads", 8}, {"num_key_value_heads", 8}}, "num_attention_heads");
  expect_difference("mistral", {{"sliding_window", 16}}, "window_left");
  expect_difference("roberta", {{"layer_norm_eps", 1e-3}}, "norm_eps");
  expect_difference("roberta", {{"pad_token_id", 3}}, "first_position");
  expect_difference("bert", {{"hidden_act", "relu"}}, "hidden_act");
  expect_difference("gemma2", {{"attn_logit_softcapping", 7.0}}, "attention_soft_cap");
  expect_difference("gemma2", {{"final_logit_softcapping", 7.0}}, "final_soft_cap", ModelTask::kCausalLm);
  expect_difference("gemma2", {{"query_pre_attn_scalar", 77}}, "attention_scale");
  expect_difference("modernbert", {{"classifier_pooling", "cls"}}, "pooling",
                    ModelTask::kSequenceClassification);
}

TEST(Computation, IsTheSameWhateverDoesNotCount) {
  EXPECT_THAT(computation_differences(computation("roberta", {}),
                                      computation("roberta", {{"hidden_dropout_prob", 0.3}})),
              IsEmpty());
  EXPECT_THAT(
      computation_differences(computation("llama", {}), computation("llama", {{"rope_theta", 10000.0f}})),
      IsEmpty());
  // Rounding to float32, and a window that no text reaches.
  EXPECT_THAT(computation_differences(computation("llama", {{"rms_norm_eps", 1e-5}}),
                                      computation("llama", {{"rms_norm_eps", static_cast<float>(1e-5)}})),
              IsEmpty());
  EXPECT_THAT(computation_differences(
                  computation("mistral", {{"sliding_window", 32}}),
                  computation("mistral", {{"sliding_window", nullptr}, {"max_position_embeddings", 32}})),
              IsEmpty());
  EXPECT_THAT(computation_differences(json(), computation("llama", {})), IsEmpty());
  EXPECT_THAT(computation_differences({{"of_later", 1}}, computation("llama", {})), IsEmpty());
}

TEST(Computation, NamesLayersThatDiffer) {
  const json slides = computation("gemma2", {{"sliding_window", 16}});
  EXPECT_EQ(slides["window_left"], json({15, -1, 15, -1}));
  EXPECT_EQ(computation("roberta", {})["norm_eps"], json(1e-5));
}

}  // namespace
}  // namespace msplora
