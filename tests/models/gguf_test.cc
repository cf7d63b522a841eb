#include "msplora/models/gguf.h"

#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "error_text.h"
#include "gguf/gguf_bytes.h"
#include "msplora/io/gguf_weights.h"
#include "msplora/models/model.h"
#include "msplora/nn/decoder_functional.h"
#include "msplora/tokenizers/tokenizer.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class GgufModelTest : public ::testing::Test {
 protected:
  ModelConfig config_of(const GgufBytes& bytes) const { return load_model_config(bytes.write(file_)); }
  std::string error_of(const GgufBytes& bytes) const {
    return error_text([&] { load_model(bytes.write(file_), causal_lm()); });
  }
  static ModelLoadOptions causal_lm() {
    ModelLoadOptions options;
    options.task = ModelTask::kCausalLm;
    return options;
  }

  const TemporaryDirectory directory_;
  const fs::path file_ = directory_ / "model.gguf";
};

/// The keys of a small Llama; `without` one of them, and with `other` in place of "llama".
GgufBytes small_keys(const std::string& without = "", const std::string& other = "llama") {
  GgufBytes bytes;
  const auto add = [&](const std::string& key, auto put) {
    if (key != without) put(other + "." + key);
  };
  bytes.string("general.architecture", other);
  add("context_length", [&](const std::string& key) { bytes.u32(key, 64); });
  add("embedding_length", [&](const std::string& key) { bytes.u32(key, 8); });
  add("block_count", [&](const std::string& key) { bytes.u32(key, 1); });
  add("feed_forward_length", [&](const std::string& key) { bytes.u32(key, 12); });
  add("attention.head_count", [&](const std::string& key) { bytes.u32(key, 2); });
  add("attention.layer_norm_rms_epsilon", [&](const std::string& key) { bytes.f32(key, 1e-5F); });
  return bytes;
}

std::vector<float> counted(size_t count, float from = 0.0F) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = from + 0.001F * static_cast<float>(i);
  return values;
}

/// The tensors of a small Llama with one head of keys and values for each of queries.
GgufBytes with_tensors(GgufBytes bytes, const std::string& without = "") {
  const auto add = [&](const std::string& name, const std::vector<int64_t>& extents) {
    if (name == without) return;
    size_t count = 1;
    for (const int64_t extent : extents) count *= static_cast<size_t>(extent);
    bytes.f32_tensor(name, extents, counted(count));
  };
  add("token_embd.weight", {8, 20});
  add("output_norm.weight", {8});
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"})
    add(std::string("blk.0.") + name + ".weight", {8, 8});
  add("blk.0.attn_norm.weight", {8});
  add("blk.0.ffn_norm.weight", {8});
  add("blk.0.ffn_gate.weight", {8, 12});
  add("blk.0.ffn_up.weight", {8, 12});
  add("blk.0.ffn_down.weight", {12, 8});
  return bytes;
}

TEST_F(GgufModelTest, KeysBecomeThoseOfConfigJson) {
  GgufBytes bytes = small_keys();
  bytes.f32("llama.rope.freq_base", 5e5F).u32("tokenizer.ggml.bos_token_id", 1);
  bytes.u32("tokenizer.ggml.eos_token_id", 2).u32("tokenizer.ggml.padding_token_id", 3);
  const ModelConfig config = config_of(with_tensors(bytes));
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_THAT(config.architectures, ElementsAre("LlamaForCausalLM"));
  EXPECT_EQ(config.pad_token_id, 3);
  EXPECT_EQ(config.raw, (json{{"model_type", "llama"},
                              {"architectures", {"LlamaForCausalLM"}},
                              {"hidden_size", 8},
                              {"num_hidden_layers", 1},
                              {"intermediate_size", 12},
                              {"num_attention_heads", 2},
                              {"num_key_value_heads", nullptr},
                              {"head_dim", 4},
                              {"max_position_embeddings", 64},
                              {"rms_norm_eps", 1e-5},
                              {"rope_theta", 5e5},
                              {"vocab_size", 20},
                              {"tie_word_embeddings", true},
                              {"attention_bias", false},
                              {"mlp_bias", false},
                              {"bos_token_id", 1},
                              {"eos_token_id", 2},
                              {"pad_token_id", 3},
                              {"torch_dtype", "float32"}}));
  EXPECT_EQ(error_of(with_tensors(bytes)), "no error");
}

TEST_F(GgufModelTest, WhatKeysImply) {
  EXPECT_EQ(config_of(with_tensors(small_keys())).raw["rope_theta"], 10000.0);
  GgufBytes window = small_keys();
  window.u32("llama.attention.sliding_window", 16);
  const ModelConfig mistral = config_of(with_tensors(window));
  EXPECT_EQ(mistral.model_type, "mistral");
  EXPECT_THAT(mistral.architectures, ElementsAre("MistralForCausalLM"));
  EXPECT_EQ(describe(mistral).blocks[0].attention.shape.window_left, 15);

  GgufBytes lists = small_keys("attention.head_count");
  lists.array<uint32_t>("llama.attention.head_count", 4, {2});
  lists.array<int32_t>("llama.attention.head_count_kv", 5, {1, 1, 1});
  EXPECT_EQ(config_of(with_tensors(lists)).raw["num_key_value_heads"], 1);

  // Every token that answers end with, control tokens alone.
  GgufBytes ends = small_keys();
  ends.strings("tokenizer.ggml.tokens", {"a", "<|im_end|>", "</s>", "<|eot_id|>"});
  ends.array<int32_t>("tokenizer.ggml.token_type", 5, {1, 3, 3, 1}).u32("tokenizer.ggml.eos_token_id", 2);
  EXPECT_EQ(config_of(with_tensors(ends)).raw["eos_token_id"], json({2, 1}));

  GgufBytes untied = with_tensors(small_keys());
  untied.f32_tensor("output.weight", {8, 20}, counted(160));
  EXPECT_EQ(config_of(untied).raw["tie_word_embeddings"], false);
  EXPECT_EQ(error_of(untied), "no error");
}

TEST_F(GgufModelTest, KeysThatAreWrongAreNamed) {
  for (const char* key : {"context_length", "embedding_length", "block_count", "feed_forward_length",
                          "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    EXPECT_THAT(error_of(with_tensors(small_keys(key))),
                AllOf(HasSubstr("model.gguf"), HasSubstr("llama." + std::string(key)), HasSubstr("missing")))
        << key;
    GgufBytes text = small_keys(key);
    text.string("llama." + std::string(key), "8");
    EXPECT_THAT(error_of(with_tensors(text)),
                AllOf(HasSubstr("llama." + std::string(key)), HasSubstr("found string")));
  }
  const auto with = [&](auto change, const std::string& without = "") {
    GgufBytes bytes = small_keys(without);
    change(bytes);
    return error_of(with_tensors(bytes));
  };
  EXPECT_THAT(with([](GgufBytes& b) { b.u32("llama.expert_count", 8); }), HasSubstr("mixtures of experts"));
  EXPECT_THAT(
      with([](GgufBytes& b) {
        b.array<uint32_t>("llama.attention.head_count_kv", 4, {2, 1});
      }),
      HasSubstr("llama.attention.head_count_kv: expected the same number in every layer, found 2 and 1"));
  EXPECT_THAT(with([](GgufBytes& b) { b.array<uint32_t>("llama.attention.head_count_kv", 4, {}); }),
              HasSubstr("found an empty list"));
  EXPECT_THAT(with([](GgufBytes& b) { b.u32("llama.attention.value_length", 8); }),
              HasSubstr("llama.attention.value_length: expected the width of the keys, 4, found 8"));
  EXPECT_THAT(with([](GgufBytes& b) { b.u32("llama.rope.dimension_count", 2); }),
              HasSubstr("llama.rope.dimension_count: expected angles for whole heads of 4, found 2"));
  EXPECT_THAT(with([](GgufBytes& b) { b.string("llama.rope.scaling.type", "magic"); }),
              HasSubstr("llama.rope.scaling.type: expected none, linear, yarn or longrope, found `magic`"));
  EXPECT_THAT(with([](GgufBytes& b) { b.string("llama.rope.scaling.type", "linear"); }),
              HasSubstr("llama.rope.scaling.factor: the key is missing"));
  EXPECT_THAT(with([](GgufBytes& b) { b.key("llama.embedding_length", 10, GgufBytes::raw(~uint64_t{0})); },
                   "embedding_length"),
              HasSubstr("llama.embedding_length: expected at most 2147483647, found 9223372036854775807"));
  EXPECT_THAT(with([](GgufBytes& b) { b.key("llama.block_count", 5, GgufBytes::raw(-1)); }, "block_count"),
              HasSubstr("llama.block_count: expected a positive integer, found -1"));
  const auto with_kv_heads = [&](uint32_t count) {
    return with([&](GgufBytes& b) { b.u32("llama.attention.head_count_kv", count); });
  };
  EXPECT_THAT(with_kv_heads(0), HasSubstr("head_count_kv: expected a positive integer, found 0"));
  EXPECT_THAT(with_kv_heads(3), HasSubstr("llama.attention.head_count_kv: expected a divisor of "
                                          "llama.attention.head_count = 2, found 3"));
  EXPECT_THAT(with_kv_heads(~uint32_t{0}),
              HasSubstr("head_count_kv: expected at most 2147483647, found 4294967295"));
  EXPECT_THAT(with([](GgufBytes& b) {
                b.key("llama.attention.key_length", 5, GgufBytes::raw(-1));
                b.u32("llama.attention.value_length", 4);
              }),
              HasSubstr("llama.attention.key_length: expected a positive integer, found -1"));
  // There would be a frequency for every two of its elements.
  EXPECT_THAT(with([](GgufBytes& b) { b.u32("llama.attention.key_length", 1U << 30); }),
              HasSubstr("llama.attention.key_length: expected heads of at most 65536, found 1073741824"));
  for (const float value : {NAN, INFINITY, 0.0F, -1.0F}) {
    const std::string said =
        std::isfinite(value) ? "expected a positive number, found " : "expected a finite number, found ";
    EXPECT_THAT(with([&](GgufBytes& b) { b.f32("llama.attention.layer_norm_rms_epsilon", value); },
                     "attention.layer_norm_rms_epsilon"),
                HasSubstr("llama.attention.layer_norm_rms_epsilon: " + said))
        << value;
    EXPECT_THAT(with([&](GgufBytes& b) { b.f32("llama.rope.freq_base", value); }),
                HasSubstr("llama.rope.freq_base: " + said))
        << value;
    EXPECT_THAT(with([&](GgufBytes& b) {
                  b.string("llama.rope.scaling.type", "linear");
                  b.f32("llama.rope.scaling.factor", value);
                }),
                HasSubstr("llama.rope.scaling.factor: " + said))
        << value;
  }
  EXPECT_THAT(with([](GgufBytes& b) { b.u32("llama.block_count", 4'000'000); }, "block_count"),
              HasSubstr("llama.block_count: expected at most the number of tensors, 11, found 4000000"));
}

TEST_F(GgufModelTest, FilesThatAreNoModelOfAKnownKind) {
  EXPECT_THAT(error_of(with_tensors(small_keys("", "rwkv6"))),
              AllOf(HasSubstr("general.architecture: `rwkv6` is not supported"), HasSubstr("llama, qwen2")));
  GgufBytes none;
  none.u32("llama.block_count", 1);
  EXPECT_THAT(error_of(with_tensors(none)), HasSubstr("general.architecture: the key is missing"));
  GgufBytes adapter = small_keys();
  adapter.string("general.type", "adapter");
  EXPECT_THAT(error_of(with_tensors(adapter)),
              AllOf(HasSubstr("expected `model`, found `adapter`"), HasSubstr("this file as the adapter")));
  EXPECT_THAT(error_of(with_tensors(small_keys(), "token_embd.weight")),
              HasSubstr("tensor `token_embd.weight`: the file has no such tensor"));
}

TEST_F(GgufModelTest, TensorsThatDoNotFitAreListed) {
  EXPECT_THAT(error_of(with_tensors(small_keys(), "blk.0.attn_k.weight")),
              AllOf(HasSubstr("missing"), HasSubstr("model.layers.0.self_attn.k_proj.weight")));
  GgufBytes more = with_tensors(small_keys());
  more.f32_tensor("blk.0.ffn_gate_inp.weight", {8}, counted(8));
  EXPECT_THAT(error_of(more), AllOf(HasSubstr("unexpected"), HasSubstr("blk.0.ffn_gate_inp.weight")));
  GgufBytes shape = with_tensors(small_keys(), "blk.0.attn_v.weight");
  shape.f32_tensor("blk.0.attn_v.weight", {8, 6}, counted(48));
  EXPECT_THAT(error_of(shape), HasSubstr("v_proj.weight: expected [8, 8], found [6, 8]"));
  GgufBytes integers = with_tensors(small_keys(), "blk.0.attn_v.weight");
  integers.tensor("blk.0.attn_v.weight", {8, 8}, 26, std::string(256, '\0'));
  EXPECT_THAT(error_of(integers), HasSubstr("v_proj.weight: expected a floating-point tensor"));
  GgufBytes infinite = with_tensors(small_keys(), "output_norm.weight");
  infinite.f32_tensor("output_norm.weight", {8}, std::vector<float>(8, INFINITY));
  EXPECT_THAT(error_of(infinite), AllOf(HasSubstr("NaN or infinity"), HasSubstr("model.norm.weight")));
}

// Whatever a file says, it is read or refused, and nothing of a size that it merely claims is made.
TEST_F(GgufModelTest, DamagedFilesAreReadOrRefused) {
  GgufBytes bytes = small_keys();
  bytes.string("tokenizer.ggml.model", "llama")
      .strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a", "b"});
  bytes.array<float>("tokenizer.ggml.scores", 6, {0, 0, 0, -1, -2});
  bytes.array<int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3, 1, 1});
  bytes = with_tensors(bytes);
  const std::string whole = bytes.bytes();
  const size_t header = bytes.header().size();
  std::mt19937 random(11);
  int refused = 0, read = 0;
  for (int round = 0; round < 300; ++round) {
    std::string damaged = whole;
    for (unsigned flips = 1 + random() % 2; flips > 0; --flips) {
      const size_t at = random() % header;
      damaged[at] = static_cast<char>(random() % 2 == 0 ? random() : damaged[at] ^ (1 << random() % 8));
    }
    GgufBytes::write_bytes(file_, damaged);
    const std::string model = error_text([&] { load_model(file_, causal_lm()); });
    const std::string tokenizer = error_text([&] { Tokenizer::load(file_)->encode({"ab a", {}}); });
    (model == "no error" && tokenizer == "no error" ? read : refused) += 1;
  }
  EXPECT_GT(refused, 50);
  EXPECT_GT(read, 3);
}

// Row 2 i + e of a head in the file is row e h/2 + i of the model.
TEST_F(GgufModelTest, RowsOfHeadsAreInterleaved) {
  EXPECT_THAT(interleaved_rows(8, 1), ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
  EXPECT_THAT(interleaved_rows(8, 2), ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  with_tensors(small_keys()).write(file_);
  const ModelConfig config = load_model_config(file_);
  const GgufWeights weights(GgufFile::open(file_), gguf_names(config));
  const std::string q = "model.layers.0.self_attn.q_proj.weight";
  const at::Tensor tensor = weights.tensor(q);
  // Rows of the file begin with 0, 0.008, 0.016, ...
  const std::vector<float> first = {0, 0.016F, 0.008F, 0.024F, 0.032F, 0.048F, 0.04F, 0.056F};
  for (int64_t row = 0; row < 8; ++row)
    EXPECT_FLOAT_EQ(tensor[row][0].item<float>(), first[static_cast<size_t>(row)]);
  const auto weight = weights.weight(q, at::kFloat, false);
  EXPECT_TRUE(weight->values().equal(tensor));
  EXPECT_TRUE(weight->rows(3, 6).equal(tensor.slice(0, 3, 6)));
  EXPECT_EQ(weight->form(), "float32, mapped");
  EXPECT_FLOAT_EQ(weights.tensor("model.layers.0.self_attn.v_proj.weight")[1][0].item<float>(), 0.008F);
}

TEST_F(GgufModelTest, Llama3sRuleIsFoundAgain) {
  GgufBytes bytes = small_keys("embedding_length");
  bytes.u32("llama.embedding_length", 128).f32("llama.rope.freq_base", 5e5F);
  // Of a head of 64: wavelengths below 2048 stay, above 8192 are divided by 8.
  std::vector<float> divisors;
  for (const double f : rotary_frequencies(64, 5e5)) {
    const double wavelength = 2 * M_PI / f, smooth = (8192 / wavelength - 1) / 3;
    const double scaled = wavelength > 8192   ? f / 8
                          : wavelength < 2048 ? f
                                              : (1 - smooth) * f / 8 + smooth * f;
    divisors.push_back(static_cast<float>(f / scaled));
  }
  GgufBytes right = bytes;
  right.f32_tensor("token_embd.weight", {128, 2}, counted(256))
      .f32_tensor("rope_freqs.weight", {32}, divisors);
  EXPECT_EQ(config_of(right).raw["rope_scaling"], (json{{"rope_type", "llama3"},
                                                        {"factor", 8.0},
                                                        {"low_freq_factor", 1.0},
                                                        {"high_freq_factor", 4.0},
                                                        {"original_max_position_embeddings", 8192}}));
  divisors[10] = 3.0F;
  GgufBytes wrong = bytes;
  wrong.f32_tensor("token_embd.weight", {128, 2}, counted(256))
      .f32_tensor("rope_freqs.weight", {32}, divisors);
  EXPECT_THAT(error_of(wrong),
              HasSubstr("tensor `rope_freqs.weight`: its divisors of the rotary frequencies"));
}

std::vector<std::string> stored_names(const json& config) {
  std::vector<std::string> names;
  for (const GgufName& name : gguf_names(parse_model_config(config, "config.json"))) {
    std::string text = name.stored;
    if (name.is_transposed) text += " turned";
    if (name.has_one_added) text += " +1";
    if (name.interleaved_heads > 0) text += " / " + std::to_string(name.interleaved_heads);
    names.push_back(text);
  }
  return names;
}

// The names that llama.cpp looks for.
TEST(GgufNames, OfEveryArchitecture) {
  json config = {{"model_type", "llama"},
                 {"vocab_size", 10},
                 {"hidden_size", 8},
                 {"num_hidden_layers", 1},
                 {"intermediate_size", 4},
                 {"num_attention_heads", 2},
                 {"num_key_value_heads", 1},
                 {"max_position_embeddings", 16},
                 {"head_dim", 4}};
  EXPECT_THAT(
      stored_names(config),
      UnorderedElementsAre("token_embd.weight", "output_norm.weight", "output.weight",
                           "blk.0.attn_norm.weight", "blk.0.attn_q.weight / 2", "blk.0.attn_k.weight / 1",
                           "blk.0.attn_v.weight", "blk.0.attn_output.weight", "blk.0.ffn_norm.weight",
                           "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"));
  config["model_type"] = "qwen2";
  EXPECT_THAT(stored_names(config),
              UnorderedElementsAre("token_embd.weight", "output_norm.weight", "output.weight",
                                   "blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.attn_q.bias",
                                   "blk.0.attn_k.weight", "blk.0.attn_k.bias", "blk.0.attn_v.weight",
                                   "blk.0.attn_v.bias", "blk.0.attn_output.weight", "blk.0.ffn_norm.weight",
                                   "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"));
  config["model_type"] = "gemma3_text";
  EXPECT_THAT(
      stored_names(config),
      UnorderedElementsAre("token_embd.weight", "output_norm.weight +1", "output.weight",
                           "blk.0.attn_norm.weight +1", "blk.0.attn_q.weight", "blk.0.attn_k.weight",
                           "blk.0.attn_v.weight", "blk.0.attn_output.weight", "blk.0.attn_q_norm.weight +1",
                           "blk.0.attn_k_norm.weight +1", "blk.0.post_attention_norm.weight +1",
                           "blk.0.ffn_norm.weight +1", "blk.0.post_ffw_norm.weight +1",
                           "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"));
  config["model_type"] = "olmo2";
  EXPECT_THAT(
      stored_names(config),
      UnorderedElementsAre("token_embd.weight", "output_norm.weight", "output.weight", "blk.0.attn_q.weight",
                           "blk.0.attn_k.weight", "blk.0.attn_v.weight", "blk.0.attn_output.weight",
                           "blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight",
                           "blk.0.post_attention_norm.weight", "blk.0.post_ffw_norm.weight",
                           "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"));
  config["model_type"] = "phi3";
  EXPECT_THAT(
      stored_names(config),
      UnorderedElementsAre("token_embd.weight", "output_norm.weight", "output.weight",
                           "blk.0.attn_norm.weight", "blk.0.attn_qkv.weight", "blk.0.attn_output.weight",
                           "blk.0.ffn_norm.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"));
  const json gpt2 = {{"model_type", "gpt2"}, {"vocab_size", 10}, {"n_embd", 8},
                     {"n_layer", 1},         {"n_head", 2},      {"n_positions", 16}};
  EXPECT_THAT(
      stored_names(gpt2),
      UnorderedElementsAre("token_embd.weight", "position_embd.weight", "output_norm.weight",
                           "output_norm.bias", "output.weight", "blk.0.attn_norm.weight",
                           "blk.0.attn_norm.bias", "blk.0.attn_qkv.weight turned", "blk.0.attn_qkv.bias",
                           "blk.0.attn_output.weight turned", "blk.0.attn_output.bias",
                           "blk.0.ffn_norm.weight", "blk.0.ffn_norm.bias", "blk.0.ffn_up.weight turned",
                           "blk.0.ffn_up.bias", "blk.0.ffn_down.weight turned", "blk.0.ffn_down.bias"));
  EXPECT_EQ(gguf_architecture("mistral"), "llama");
  EXPECT_EQ(gguf_architecture("gemma3_text"), "gemma3");
  EXPECT_EQ(gguf_architecture("bert"), "");
}

}  // namespace
}  // namespace msplora
