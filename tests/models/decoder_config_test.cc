#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/config_texts.h"
#include "msplora/models/model_config.h"

namespace msplora {
namespace {

using config_texts::llama;
using config_texts::parse;
using config_texts::refusal;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Of each layer: tokens that attention looks back over, the token itself included; 0: all.
std::vector<int64_t> windows_of(const json& source) {
  std::vector<int64_t> windows;
  for (const BlockSpec& block : describe(parse(source)).blocks)
    windows.push_back(block.attention.shape.window_left + 1);
  return windows;
}

const LinearSpec& linear_of(const Architecture& architecture, LinearRole role) {
  return *architecture.blocks.front().find(role);
}

TEST(DecoderConfig, ReadsDecoders) {
  EXPECT_FALSE(parse(llama()).pad_token_id.has_value());
  const Architecture grouped = describe(parse(llama()), ModelTask::kCausalLm);
  EXPECT_EQ(grouped.kv_heads(), 2);
  EXPECT_EQ(linear_of(grouped, LinearRole::kKey).out, 24);
  EXPECT_EQ(linear_of(grouped, LinearRole::kAttentionOutput).in, 48);
  EXPECT_DOUBLE_EQ(grouped.rotaries[0].frequencies[1], std::pow(500000.0, -2.0 / 12));
  EXPECT_EQ(grouped.final_norm.eps, 1e-5);
  EXPECT_EQ(grouped.blocks[0].activation, kernels::Activation::kSilu);
  EXPECT_TRUE(grouped.is_causal());
  EXPECT_FALSE(grouped.head.is_tied);
  json source = llama();
  source["pad_token_id"] = -1;
  source.erase("num_key_value_heads");
  source["head_dim"] = 20;
  source["attention_dropout"] = 0.25;
  source["tie_word_embeddings"] = true;
  EXPECT_FALSE(parse(source).pad_token_id.has_value());
  const Architecture wide = describe(parse(source), ModelTask::kCausalLm);
  EXPECT_EQ(wide.kv_heads(), 4);
  EXPECT_EQ(linear_of(wide, LinearRole::kQuery).out, 80);
  EXPECT_EQ(wide.blocks[0].attention.dropout, 0.25);
  EXPECT_TRUE(wide.head.is_tied);
  source["model_type"] = "mistral";
  EXPECT_THAT(refusal(source), AllOf(HasSubstr("num_key_value_heads"), HasSubstr("missing")));
  source["num_key_value_heads"] = nullptr;
  EXPECT_EQ(describe(parse(source)).kv_heads(), 4);
  source["model_type"] = "qwen3";
  source.erase("head_dim");
  EXPECT_EQ(describe(parse(source)).blocks[0].attention.shape.head_dim, 128);
}

// The frequency of the second pair, which names theta; heads are 12 wide.
double theta_of(const json& source) {
  return std::pow(describe(parse(source)).rotaries.at(0).frequencies.at(1), -6.0);
}

TEST(DecoderConfig, ReadsTheNewerSpellings) {
  json source = llama();
  source.erase("torch_dtype");
  source.erase("rope_theta");
  source["dtype"] = "float16";
  source["rope_parameters"] = {{"rope_theta", 250000.0}, {"rope_type", "default"}};
  ModelConfig config = parse(source);
  EXPECT_EQ(config.torch_dtype, "float16");
  EXPECT_NEAR(theta_of(source), 250000.0, 1e-3);
  EXPECT_EQ(model_config_to_json(config), source);
  config.torch_dtype = "bfloat16";
  EXPECT_EQ(model_config_to_json(config)["dtype"], "bfloat16");
}

// What transformers 5.24 makes of the same files.
TEST(DecoderConfig, OfTwoSpellingsTheOneOfTransformersCounts) {
  const auto said = [](const json& source, double theta) {
    testing::internal::CaptureStderr();
    const ModelConfig config = parse(source);
    const std::string text = testing::internal::GetCapturedStderr();
    if (!source.contains("dtype")) {
      EXPECT_EQ(model_config_to_json(config), source);
    }
    if (theta > 0) {
      EXPECT_NEAR(theta_of(source), theta, 1e-6 * theta) << source;
    }
    return text;
  };
  json source = llama();
  source["rope_theta"] = 10000.0;
  source["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  EXPECT_THAT(said(source, 500000.0),
              AllOf(HasSubstr("rope_parameters.rope_theta is 500000"), HasSubstr("rope_theta is 10000")));
  source["rope_theta"] = 500000.0;
  EXPECT_EQ(said(source, 500000.0), "");
  source["rope_parameters"].erase("rope_theta");
  EXPECT_EQ(said(source, 500000.0), "");
  source["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  source["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 300000.0}};
  EXPECT_THAT(said(source, 0), HasSubstr("rope_scaling counts"));
  EXPECT_DOUBLE_EQ(describe(parse(source)).rotaries[0].frequencies[0], 1.0 / 2.0);
  source["rope_scaling"]["rope_theta"] = 70000.0;
  EXPECT_THAT(said(source, 0), HasSubstr("rope_scaling.rope_theta is 70000"));
  EXPECT_DOUBLE_EQ(describe(parse(source)).rotaries[0].frequencies[1], std::pow(70000.0, -1.0 / 6) / 2.0);
  source = llama();
  source["rope_scaling"] = {{"rope_type", "default"}, {"type", "linear"}, {"factor", 3.0}};
  EXPECT_THAT(said(source, 0), HasSubstr("rope_scaling.rope_type counts"));
  source = llama();
  source["torch_dtype"] = "float32";
  source["dtype"] = "bfloat16";
  EXPECT_THAT(said(source, 500000.0), HasSubstr("dtype is \"bfloat16\""));
  ModelConfig config = parse(source);
  EXPECT_EQ(config.torch_dtype, "bfloat16");
  config.torch_dtype = "float16";
  const json written = model_config_to_json(config);
  EXPECT_EQ(written["dtype"], "float16");
  EXPECT_EQ(written["torch_dtype"], "float16");
}

TEST(DecoderConfig, ReadsHowFarDecodersReach) {
  const auto frequencies = [](const json& source) {
    return describe(parse(source)).rotaries.at(0).frequencies;
  };
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    json newer = llama();
    newer[key] = llama3;
    EXPECT_EQ(model_config_to_json(parse(newer)), newer);
    const std::vector<double> plain = frequencies(llama()), scaled = frequencies(newer);
    EXPECT_EQ(scaled.front(), plain.front());             // short waves stay
    EXPECT_DOUBLE_EQ(scaled.back(), plain.back() / 8.0);  // long ones are stretched
  }
  json source = llama();
  source["rope_scaling"] = {{"type", "linear"}, {"factor", 2.5}};
  EXPECT_DOUBLE_EQ(frequencies(source)[0], 1.0 / 2.5);
  source["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 2.0}, {"low_freq_factor", 4.0}};
  EXPECT_THAT(refusal(source), HasSubstr("rope_scaling.high_freq_factor: expected a positive number"));
}

// The numbers are those of transformers 5.24: configuration_mistral.py, configuration_qwen2.py.
TEST(DecoderConfig, ReadsWhichLayersSlide) {
  json source = llama();
  source["num_hidden_layers"] = 4;
  source["sliding_window"] = 16;
  EXPECT_THAT(windows_of(source), Each(0));  // Llama has none, whatever its file says
  json mistral = source;
  mistral["model_type"] = "mistral";
  EXPECT_THAT(windows_of(mistral), ElementsAre(16, 16, 16, 16));
  mistral["sliding_window"] = nullptr;
  EXPECT_THAT(windows_of(mistral), Each(0));
  mistral.erase("sliding_window");
  EXPECT_THAT(windows_of(mistral), ElementsAre(4096, 4096, 4096, 4096));

  for (const char* model_type : {"qwen2", "qwen3"}) {
    json qwen = source;
    qwen["model_type"] = model_type;
    EXPECT_THAT(windows_of(qwen), Each(0));  // use_sliding_window is false
    qwen["use_sliding_window"] = true;
    EXPECT_THAT(windows_of(qwen), Each(0));  // max_window_layers is 28
    qwen["max_window_layers"] = 0;
    EXPECT_THAT(windows_of(qwen), ElementsAre(16, 16, 16, 16));
    qwen["max_window_layers"] = 3;
    EXPECT_THAT(windows_of(qwen), ElementsAre(0, 0, 0, 16));
    EXPECT_EQ(model_config_to_json(parse(qwen)), qwen);
    qwen["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
    EXPECT_THAT(windows_of(qwen), ElementsAre(16, 0, 16, 0));
    EXPECT_EQ(model_config_to_json(parse(qwen)), qwen);
    qwen["sliding_window"] = nullptr;
    EXPECT_THAT(refusal(qwen), HasSubstr("layer_types[0]: expected full_attention"));
    qwen["sliding_window"] = 16, qwen["use_sliding_window"] = false;
    EXPECT_THAT(refusal(qwen), HasSubstr("use_sliding_window: true"));
  }
}

// configuration_smollm3.py of transformers 5.24: what has no rotary positions slides.
TEST(DecoderConfig, SmolLm3SlidesWhereItHasNoRotaryPositions) {
  json source = llama();
  source["model_type"] = "smollm3";
  source["num_hidden_layers"] = 5;
  source["sliding_window"] = 16;
  EXPECT_THAT(windows_of(source), Each(0));  // use_sliding_window is false
  source["use_sliding_window"] = true;
  EXPECT_THAT(windows_of(source), ElementsAre(0, 0, 0, 16, 0));
  source["no_rope_layers"] = {0, 1, 1, 1, 0};
  EXPECT_THAT(windows_of(source), ElementsAre(16, 0, 0, 0, 16));
  std::vector<int> rotaries;
  for (const BlockSpec& block : describe(parse(source)).blocks) rotaries.push_back(block.attention.rotary);
  EXPECT_THAT(rotaries, ElementsAre(-1, 0, 0, 0, -1));
  source["layer_types"] = json(std::vector<std::string>(5, "full_attention"));
  EXPECT_THAT(windows_of(source), Each(0));
  source.erase("layer_types");
  source.erase("sliding_window");
  EXPECT_THAT(windows_of(source), Each(0));
}

// A wrong depth must not be allocated before it is refused.
TEST(DecoderConfig, RefusesADepthThatNothingHas) {
  for (const char* type :
       {"llama", "mistral", "qwen2", "smollm3", "olmo2", "gemma2", "gemma3_text", "phi3"}) {
    json source = llama();
    source["model_type"] = type;
    EXPECT_THAT(refusal(source, "num_hidden_layers", 2147483647), HasSubstr("at most 100000")) << type;
  }
}

TEST(DecoderConfig, RefusesWindowsThatSayNothing) {
  json source = llama();
  source["model_type"] = "mistral";
  for (const json& wrong : {json(0), json(-4), json("all"), json(2.5)})
    EXPECT_THAT(refusal(source, "sliding_window", wrong), HasSubstr("a positive integer or null"));
  source["sliding_window"] = 8;
  EXPECT_THAT(refusal(source, "layer_types", {"sliding_attention"}), HasSubstr("a list of 2 names"));
  source["layer_types"] = {"sliding_attention", "chunked_attention"};
  EXPECT_THAT(refusal(source), HasSubstr("layer_types[1]"));
  source["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_THAT(refusal(source), HasSubstr("every layer of this model slides"));
  source["layer_types"] = {"sliding_attention", "sliding_attention"};
  EXPECT_THAT(windows_of(source), ElementsAre(8, 8));
  source = llama();
  source["model_type"] = "qwen2", source["use_sliding_window"] = true;
  refusal(source, "max_window_layers", -1);
}

TEST(DecoderConfig, ReadsBiasesOfDecoders) {
  json source = llama();
  source["attention_bias"] = source["mlp_bias"] = true;
  const Architecture biased = describe(parse(source));
  EXPECT_TRUE(linear_of(biased, LinearRole::kAttentionOutput).has_bias);
  EXPECT_TRUE(linear_of(biased, LinearRole::kDown).has_bias);
  source["model_type"] = "mistral";
  EXPECT_FALSE(linear_of(describe(parse(source)), LinearRole::kQuery).has_bias);
  source["model_type"] = "qwen2";
  EXPECT_TRUE(linear_of(describe(parse(source)), LinearRole::kQuery).has_bias);
  EXPECT_FALSE(linear_of(describe(parse(source)), LinearRole::kAttentionOutput).has_bias);
}

TEST(DecoderConfig, ReadsGpt2) {
  const json source =
      json::parse(R"({"model_type": "gpt2", "vocab_size": 50, "n_embd": 12, "n_layer": 2, "n_head": 3,
    "n_positions": 64, "n_ctx": 64, "n_inner": null, "activation_function": "gelu_new", "resid_pdrop": 0.2,
    "embd_pdrop": 0.2, "attn_pdrop": 0.3, "layer_norm_epsilon": 1e-06})");
  const Architecture a = describe(parse(source), ModelTask::kCausalLm);
  EXPECT_EQ(a.hidden_size(), 12);
  EXPECT_EQ(a.num_layers(), 2);
  EXPECT_EQ(a.blocks[0].attention.shape.head_dim, 4);
  EXPECT_EQ(a.intermediate_size(), 48);
  EXPECT_EQ(a.longest, 64);
  EXPECT_EQ(a.blocks[0].activation, kernels::Activation::kGeluTanh);
  EXPECT_EQ(a.blocks[0].attention_branch.dropout, 0.2);
  EXPECT_EQ(a.blocks[0].attention.dropout, 0.3);
  EXPECT_EQ(a.final_norm.eps, 1e-6);
  EXPECT_TRUE(a.head.is_tied);
  EXPECT_EQ(model_config_to_json(parse(source)), source);
  json with_inner = source;
  with_inner["n_inner"] = 20;
  EXPECT_EQ(describe(parse(with_inner)).intermediate_size(), 20);
}

}  // namespace
}  // namespace msplora
