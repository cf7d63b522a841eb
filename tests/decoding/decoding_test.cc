// Texts read in parts, beside others, forked, cut and moved within the cache, against whole forward passes.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/decoding/generator.h"
#include "msplora/models/key_value_cache.h"
#include "msplora/models/model.h"

namespace msplora {
namespace {

using nlohmann::json;
using Text = std::vector<int32_t>;

/// Small decoders: heads that share keys, a window, capped scores, learned positions.
json shape(const std::string& name) {
  json config = {{"model_type", "llama"},       {"vocab_size", 97},        {"hidden_size", 64},
                 {"intermediate_size", 96},     {"num_hidden_layers", 3},  {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},    {"rms_norm_eps", 1e-6},    {"max_position_embeddings", 700},
                 {"tie_word_embeddings", true}, {"initializer_range", 0.2}};
  if (name == "windows") {
    config["model_type"] = "mistral";
    config["sliding_window"] = 7;
  } else if (name == "some_windows") {
    config["model_type"] = "gemma3_text";
    config["head_dim"] = 16;
    config["query_pre_attn_scalar"] = 16;
    config["sliding_window"] = 6;
    config["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  } else if (name == "caps") {
    config["model_type"] = "gemma2";
    config["head_dim"] = 16;
    config["query_pre_attn_scalar"] = 16;
    config["sliding_window"] = 5;
    config["attn_logit_softcapping"] = 4.0;
    config["final_logit_softcapping"] = 6.0;
  } else if (name == "learned_positions") {
    config = {
        {"model_type", "gpt2"}, {"vocab_size", 97},        {"n_embd", 64}, {"n_layer", 3}, {"n_head", 4},
        {"n_positions", 700},   {"initializer_range", 0.2}};
  }
  return config;
}

struct Case {
  std::string name;
  at::ScalarType dtype;
};

class Decoding : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    ModelLoadOptions options;
    options.task = ModelTask::kCausalLm;
    options.compute_dtype = GetParam().dtype;
    options.seed = 5;
    options.random_init = true;
    model_ = create_model(parse_model_config(shape(GetParam().name), "config.json"), options);
    cache_ = std::make_unique<KeyValueCache>(model_->architecture(), model_->compute_dtype());
  }

  static Text text(uint64_t seed, size_t length) {
    RandomStream random(seed, "text");
    Text ids(length);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.below(97));
    return ids;
  }

  /// Logits of every token, of whole texts in one batch.
  std::vector<at::Tensor> whole(const std::vector<Text>& texts) const {
    const c10::NoGradGuard no_grad;
    const at::Tensor logits = model_->forward(packed(texts), {});
    std::vector<at::Tensor> parts;
    int64_t row = 0;
    for (const Text& one : texts) {
      parts.push_back(logits.narrow(0, row, static_cast<int64_t>(one.size())));
      row += static_cast<int64_t>(one.size());
    }
    return parts;
  }

  static PackedInput packed(const std::vector<Text>& texts) {
    PackedInput input;
    input.cu_seqlens = {0};
    std::vector<int32_t> ids;
    for (const Text& one : texts) {
      ids.insert(ids.end(), one.begin(), one.end());
      input.cu_seqlens.push_back(static_cast<int32_t>(ids.size()));
    }
    input.input_ids = at::empty({static_cast<int64_t>(ids.size())}, at::kLong);
    std::copy(ids.begin(), ids.end(), input.input_ids.data_ptr<int64_t>());
    return input;
  }

  /// Logits of the tokens [from, to) of a text that the cache has up to there.
  at::Tensor read(KeyValueCache::Sequence sequence, const Text& ids, size_t from, size_t to) {
    const KeyValueCache::Sequence one[] = {sequence};
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(from);
    return model_->decode(packed({Text(begin, begin + static_cast<std::ptrdiff_t>(to - from))}), *cache_,
                          one);
  }

  /// Up to rounding: few queries round neither probabilities nor in the order of many.
  void expect_close(const at::Tensor& got, const at::Tensor& wanted, const std::string& what) const {
    ASSERT_EQ(got.sizes(), wanted.sizes()) << what;
    const double largest = wanted.abs().max().item<double>();
    const double limit = GetParam().dtype == at::kBFloat16 ? 0.05 : 4e-6;
    EXPECT_LT((got - wanted).abs().max().item<double>(), limit * largest) << what;
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<KeyValueCache> cache_;
};

TEST_P(Decoding, PartsAreTheWhole) {
  const Text ids = text(1, 40);
  const at::Tensor wanted = whole({ids}).front();
  for (const size_t part : {1, 3, 8, 17, 40}) {
    const auto sequence = cache_->start(part == 3 ? 40 : 0);
    for (size_t from = 0; from < ids.size(); from += part) {
      const size_t to = std::min(from + part, ids.size());
      expect_close(read(sequence, ids, from, to),
                   wanted.narrow(0, static_cast<int64_t>(from), static_cast<int64_t>(to - from)),
                   "parts of " + std::to_string(part) + ", from " + std::to_string(from));
    }
    EXPECT_EQ(cache_->length(sequence), 40);
  }
}

TEST_P(Decoding, TextsBesideEachOther) {
  const std::vector<Text> texts = {text(2, 31), text(3, 12), text(4, 20)};
  const std::vector<at::Tensor> wanted = whole(texts);
  std::vector<KeyValueCache::Sequence> sequences = {cache_->start(), cache_->start(), cache_->start()};
  std::vector<size_t> read = {0, 0, 0};
  const std::vector<std::vector<size_t>> steps = {{9, 1, 4}, {1, 1, 1}, {0, 6, 1}, {20, 1, 0}, {1, 3, 14}};
  for (const auto& step : steps) {
    std::vector<Text> parts;
    std::vector<KeyValueCache::Sequence> chosen;
    std::vector<size_t> of;
    for (size_t i = 0; i < 3; ++i) {
      if (step[i] == 0) continue;
      const auto begin = texts[i].begin() + static_cast<std::ptrdiff_t>(read[i]);
      parts.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(step[i]));
      chosen.push_back(sequences[i]);
      of.push_back(i);
    }
    const at::Tensor logits = model_->decode(packed(parts), *cache_, chosen);
    int64_t row = 0;
    for (const size_t i : of) {
      const auto count = static_cast<int64_t>(step[i]);
      expect_close(logits.narrow(0, row, count), wanted[i].narrow(0, static_cast<int64_t>(read[i]), count),
                   "text " + std::to_string(i));
      row += count;
      read[i] += step[i];
    }
  }
}

TEST_P(Decoding, LongTextsMoveWithinTheCache) {
  const Text first = text(5, 640), second = text(6, 300);
  const at::Tensor of_first = whole({first}).front(), of_second = whole({second}).front();
  const auto a = cache_->start(), b = cache_->start();
  for (size_t from = 0; from < 640; from += 80) {
    expect_close(read(a, first, from, from + 80), of_first.narrow(0, static_cast<int64_t>(from), 80), "a");
    if (from + 80 > 300) continue;
    expect_close(read(b, second, from, from + 80), of_second.narrow(0, static_cast<int64_t>(from), 80), "b");
  }
  cache_->end(a);
  const int64_t bytes = cache_->bytes();
  const auto c = cache_->start();
  for (size_t from = 0; from < 240; from += 60)
    expect_close(read(c, second, from, from + 60), of_second.narrow(0, static_cast<int64_t>(from), 60), "c");
  EXPECT_EQ(cache_->bytes(), bytes);  // in the place of a
}

TEST_P(Decoding, AForkGoesItsOwnWay) {
  Text ids = text(7, 24), other = ids;
  std::copy_n(text(8, 10).begin(), 10, other.begin() + 14);
  const std::vector<at::Tensor> wanted = whole({ids, other});
  const auto sequence = cache_->start();
  read(sequence, ids, 0, 14);
  const auto fork = cache_->fork(sequence);
  expect_close(read(fork, other, 14, 20), wanted[1].narrow(0, 14, 6), "fork");
  expect_close(read(sequence, ids, 14, 24), wanted[0].narrow(0, 14, 10), "original");
  cache_->end(sequence);
  expect_close(read(fork, other, 20, 24), wanted[1].narrow(0, 20, 4), "fork, alone");
}

TEST_P(Decoding, ACutTextGoesOnOtherwise) {
  Text ids = text(9, 30), other = ids;
  std::copy_n(text(10, 12).begin(), 12, other.begin() + 18);
  const at::Tensor wanted = whole({other}).front();
  const auto sequence = cache_->start();
  read(sequence, ids, 0, 19);
  ASSERT_TRUE(cache_->cut(sequence, 18));
  EXPECT_EQ(cache_->length(sequence), 18);
  expect_close(read(sequence, other, 18, 30), wanted.narrow(0, 18, 12), "cut");
  EXPECT_THROW(cache_->cut(sequence, 31), Error);
  EXPECT_TRUE(cache_->cut(sequence, 30));
}

TEST_P(Decoding, WhatIsGoneIsNotPretended) {
  const auto sequence = cache_->start();
  const Text ids = text(11, 600);
  read(sequence, ids, 0, 290);
  for (size_t i = 290; i < 600; i += 31) read(sequence, ids, i, i + 31 > 600 ? 600 : i + 31);
  const bool slides = GetParam().name != "shared_keys" && GetParam().name != "learned_positions";
  EXPECT_EQ(cache_->cut(sequence, 20), !slides);
}

TEST_P(Decoding, ErrorsLeaveTheCacheAsItWas) {
  const Text ids = text(12, 20);
  const at::Tensor wanted = whole({ids}).front();
  const auto sequence = cache_->start();
  read(sequence, ids, 0, 10);
  EXPECT_THROW(read(sequence, text(13, 695), 0, 695), Error);  // longer than the model takes
  Text wrong = ids;
  wrong[12] = 97;
  EXPECT_THROW(read(sequence, wrong, 10, 15), Error);
  EXPECT_THROW(read(99, ids, 10, 15), Error);
  EXPECT_EQ(cache_->length(sequence), 10);
  expect_close(read(sequence, ids, 10, 20), wanted.narrow(0, 10, 10), "afterwards");
}

TEST_P(Decoding, TextsWrittenTogetherAreThoseWrittenAlone) {
  std::vector<GenerationRequest> requests;
  for (size_t i = 0; i < 6; ++i) {
    GenerationRequest request;
    request.prompt_ids = text(20 + i, 1 + 9 * i);
    request.options.max_new_tokens = static_cast<int64_t>(5 + 3 * i);
    request.options.seed = 7;
    request.number = i;
    if (i % 2 == 1) {
      request.options.do_sample = true;
      request.options.top_k = 20;
    }
    if (i == 4) request.options.num_beams = 3;
    requests.push_back(request);
  }
  GeneratorOptions options;
  options.max_batch = 4;
  options.prefill_tokens = 11;
  Generator together(*model_, nullptr, {}, options), alone(*model_, nullptr);
  const std::vector<Generation> all = together.generate(requests);
  ASSERT_EQ(all.size(), requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(all[i].tokens.size(), static_cast<size_t>(requests[i].options.max_new_tokens));
    EXPECT_EQ(all[i].finish_reason, FinishReason::kMaxNewTokens);
    // In bfloat16 a near tie may turn with the number of rows of a product.
    if (GetParam().dtype == at::kFloat) {
      EXPECT_EQ(all[i].tokens, alone.generate(requests[i]).tokens) << i;
    }
  }
  EXPECT_EQ(together.generate(requests)[3].tokens, all[3].tokens);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* name : {"shared_keys", "windows", "some_windows", "caps", "learned_positions"}) {
    all.push_back({name, at::kFloat});
    all.push_back({name, at::kBFloat16});
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, Decoding, ::testing::ValuesIn(cases()), [](const auto& info) {
  return info.param.name + (info.param.dtype == at::kFloat ? "_float32" : "_bfloat16");
});

/// Phi-3 with other angles for texts of more than 16 tokens, batched, beside each other and in the cache.
TEST(LongTexts, TurnByTheirOwnAnglesFromTheirFirstToken) {
  const c10::NoGradGuard no_grad;
  json config = shape("shared_keys");
  config.update({{"model_type", "phi3"}, {"original_max_position_embeddings", 16}});
  const std::vector<double> shorter(8, 1.0), longer = {1.5, 2, 3, 4, 6, 8, 12, 16};
  config["rope_scaling"] = {{"type", "longrope"}, {"short_factor", shorter}, {"long_factor", longer}};
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  const auto model = create_model(parse_model_config(config, "config.json"), options);
  const auto ids = [](int64_t length) {
    PackedInput input;
    input.input_ids = at::arange(length, at::kLong) * 7 % 97;
    input.cu_seqlens = {0, static_cast<int32_t>(length)};
    return input;
  };
  const auto difference = [](const at::Tensor& a, const at::Tensor& b) {
    return ((a - b).abs().max() / b.abs().max()).item<double>();
  };
  const at::Tensor of_20 = model->forward(ids(20), {}), of_12 = model->forward(ids(12), {});
  // The same tokens turn otherwise in the longer text.
  EXPECT_GT(difference(of_20.narrow(0, 0, 12), of_12), 1e-3);
  PackedInput both;
  both.input_ids = at::cat({ids(20).input_ids, ids(12).input_ids});
  both.cu_seqlens = {0, 20, 32};
  EXPECT_LT(difference(model->forward(both, {}), at::cat({of_20, of_12})), 2e-6);

  KeyValueCache cache(model->architecture(), model->compute_dtype());
  const auto read = [&](KeyValueCache::Sequence sequence, int64_t from, int64_t to) {
    PackedInput part;
    part.input_ids = ids(20).input_ids.slice(0, from, to);
    part.cu_seqlens = {0, static_cast<int32_t>(to - from)};
    return model->decode(part, cache, {&sequence, 1});
  };
  const auto becomes_long = cache.start(0, 20), stays_short = cache.start(0, 16);
  EXPECT_LT(difference(read(becomes_long, 0, 12), of_20.narrow(0, 0, 12)), 2e-6);
  EXPECT_LT(difference(read(stays_short, 0, 12), of_12), 2e-6);
  const auto fork = cache.fork(becomes_long);
  EXPECT_LT(difference(read(becomes_long, 12, 20), of_20.narrow(0, 12, 8)), 2e-6);
  EXPECT_LT(difference(read(fork, 12, 20), of_20.narrow(0, 12, 8)), 2e-6);
  EXPECT_THROW(read(stays_short, 12, 17), Error);
  EXPECT_EQ(cache.length(stays_short), 12);
  // A text that may now become long is to be read anew.
  EXPECT_FALSE(cache.cut(stays_short, 8, 20));
  EXPECT_TRUE(cache.cut(stays_short, 8, 16));
}

}  // namespace
}  // namespace msplora
