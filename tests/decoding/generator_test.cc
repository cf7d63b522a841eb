// How texts end, are shown, cancelled and gone on with.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "decoding/word_tokenizer.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/decoding/generator.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

class GeneratorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ModelLoadOptions options;
    options.task = ModelTask::kCausalLm;
    options.seed = 2;
    model_ = create_model(tiny_config("llama", 0.0), options);
    write_word_tokenizer(directory_.path(), 60);
    tokenizer_ = Tokenizer::load(directory_.path());
  }

  Generator generator(const GeneratorOptions& options = {}, std::vector<int64_t> ends = {}) const {
    return Generator(*model_, tokenizer_, std::move(ends), options);
  }

  static GenerationRequest request(const std::string& prompt, int64_t most = 12) {
    GenerationRequest made;
    made.prompt = prompt;
    made.options.max_new_tokens = most;
    return made;
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Model> model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(GeneratorTest, WhatIsShownIsTheText) {
  std::string shown;
  GenerationRequest one = request("w3 w14 w15");
  one.on_text = [&](std::string_view text) { shown += text; };
  const Generation made = generator().generate(one);
  EXPECT_EQ(made.prompt_tokens, 3u);
  EXPECT_EQ(made.tokens.size(), 12u);
  EXPECT_EQ(made.finish_reason, FinishReason::kMaxNewTokens);
  EXPECT_EQ(made.text, tokenizer_->decode(made.tokens));
  EXPECT_EQ(shown, made.text);
}

TEST_F(GeneratorTest, AnEndTokenEndsATextAndIsNotInIt) {
  const std::vector<int32_t> tokens = generator().generate(request("w3 w14 w15")).tokens;
  const int32_t end = tokens[4];
  const auto first = std::find(tokens.begin(), tokens.end(), end) - tokens.begin();
  const Generation made = generator({}, {end}).generate(request("w3 w14 w15"));
  EXPECT_EQ(made.finish_reason, FinishReason::kEndToken);
  EXPECT_EQ(made.tokens, std::vector<int32_t>(tokens.begin(), tokens.begin() + first + 1));
  EXPECT_EQ(made.text, tokenizer_->decode({tokens.begin(), tokens.begin() + first}));
}

TEST_F(GeneratorTest, AStopStringEndsATextAndIsNotInIt) {
  const Generation whole = generator().generate(request("w3 w14 w15"));
  const std::string stop = whole.text.substr(10, 4);
  GenerationRequest one = request("w3 w14 w15");
  one.options.stop = {"no such text", stop};
  std::string shown;
  one.on_text = [&](std::string_view text) { shown += text; };
  const Generation made = generator().generate(one);
  EXPECT_EQ(made.finish_reason, FinishReason::kStopString);
  EXPECT_EQ(made.text, whole.text.substr(0, whole.text.find(stop)));
  EXPECT_EQ(shown, made.text);
  EXPECT_LT(made.tokens.size(), whole.tokens.size());
}

TEST_F(GeneratorTest, TheModelsLongestTextIsTheEnd) {
  std::string prompt;
  for (int i = 0; i < 37; ++i) prompt += "w" + std::to_string(i) + " ";
  const Generation made = generator().generate(request(prompt, 50));
  EXPECT_EQ(made.tokens.size(), 4u);  // 40 places, and a last token that is not read
  EXPECT_EQ(made.finish_reason, FinishReason::kLongest);
}

TEST_F(GeneratorTest, ARequestMayBeCancelled) {
  int asked = 0;
  GenerationRequest one = request("w3");
  one.is_cancelled = [&] { return ++asked > 5; };
  const Generation made = generator().generate(one);
  EXPECT_EQ(made.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(made.tokens.size(), 5u);
  EXPECT_EQ(made.text, tokenizer_->decode(made.tokens));
}

TEST_F(GeneratorTest, TheNextTurnGoesOnFromTheLast) {
  GeneratorOptions keeping;
  keeping.keeps_last = true;
  Generator kept = generator(keeping), fresh = generator();
  const Generation first = kept.generate(request("w3 w14 w15", 6));
  GenerationRequest next = request("", 6);
  next.prompt_ids = {3, 14, 15};
  next.prompt_ids.insert(next.prompt_ids.end(), first.tokens.begin(), first.tokens.end());
  next.prompt_ids.push_back(9);
  EXPECT_EQ(kept.generate(next).tokens, fresh.generate(next).tokens);
  // Another text, which shares its beginning, and one that shares nothing.
  next.prompt_ids[5] = 42;
  EXPECT_EQ(kept.generate(next).tokens, fresh.generate(next).tokens);
  EXPECT_EQ(kept.generate(request("w8 w9", 6)).tokens, fresh.generate(request("w8 w9", 6)).tokens);
  // The same text again: its last token is read again.
  EXPECT_EQ(kept.generate(request("w8 w9", 6)).tokens, fresh.generate(request("w8 w9", 6)).tokens);
}

TEST_F(GeneratorTest, DrawsDependOnSeedAndNumber) {
  GenerationRequest one = request("w3 w4", 30);
  one.options.do_sample = true;
  const auto tokens = [&](int64_t seed, uint64_t number) {
    one.options.seed = seed;
    one.number = number;
    return generator().generate(one).tokens;
  };
  EXPECT_EQ(tokens(1, 0), tokens(1, 0));
  EXPECT_NE(tokens(1, 0), tokens(2, 0));
  EXPECT_NE(tokens(1, 0), tokens(1, 1));
}

std::string message_of(Generator& generator, GenerationRequest request) {
  try {
    generator.generate(std::move(request));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_F(GeneratorTest, APromptThatNoModelTakesIsNotRead) {
  Generator writer = generator();
  EXPECT_THAT(message_of(writer, request(std::string(kMostPromptBytes + (1 << 20), 'w'))),
              ::testing::HasSubstr("a prompt of 5.0 MiB; prompts have at most 4 MiB"));
}

TEST_F(GeneratorTest, WhatCannotBeWrittenIsSaid) {
  Generator writer = generator();
  EXPECT_THAT(message_of(writer, request("")), ::testing::HasSubstr("no tokens"));
  GenerationRequest wrong = request("");
  wrong.prompt_ids = {3, 60};
  EXPECT_THAT(message_of(writer, wrong), ::testing::HasSubstr("token 60 is not below 60"));
  wrong.prompt_ids.assign(41, 5);
  EXPECT_THAT(message_of(writer, wrong), ::testing::HasSubstr("has 41 tokens, the model takes 40"));
  wrong = request("w1");
  wrong.options.min_new_tokens = 90;
  wrong.options.max_new_tokens = 0;
  const std::string message = message_of(writer, wrong);
  EXPECT_THAT(message, ::testing::HasSubstr("min_new_tokens"));
  EXPECT_THAT(message, ::testing::HasSubstr("max_new_tokens"));
  EXPECT_EQ(writer.generate(request("w1")).tokens.size(), 12u);
  ModelLoadOptions options;
  const auto classifier = create_model(tiny_config("llama", 0.0), options);
  EXPECT_THROW(Generator(*classifier, tokenizer_), Error);
}

TEST_F(GeneratorTest, AnEmptyTextIsTheBeginningTokenWhereThereIsOne) {
  write_file_atomically(directory_.path() / "tokenizer_config.json", R"({"bos_token": "w1"})");
  Generator writer(*model_, Tokenizer::load(directory_.path()));
  const Generation made = writer.generate(request(""));
  EXPECT_EQ(made.prompt_tokens, 1u);
  EXPECT_EQ(made.tokens, writer.generate(request("w1")).tokens);
}

TEST_F(GeneratorTest, SeveralThreadsMayWriteWithOne) {
  GeneratorOptions keeping;
  keeping.keeps_last = true;
  Generator shared = generator(keeping);
  const auto prompt = [](int i) {
    return "w" + std::to_string(3 + i % 7) + " w" + std::to_string(20 + i % 5) + " w9";
  };
  constexpr int kThreads = 4, kTexts = 40;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < kThreads * kTexts; ++i)
    expected.push_back(generator().generate(request(prompt(i), 20)).tokens);
  std::atomic<int> wrong{0}, waiting{kThreads};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      for (int i = t * kTexts; i < (t + 1) * kTexts; ++i) {
        try {
          if (shared.generate(request(prompt(i), 20)).tokens != expected[static_cast<size_t>(i)]) ++wrong;
        } catch (const std::exception&) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(GeneratorTest, WhatIsForgottenWhileATextIsWrittenDoesNotComeBack) {
  GeneratorOptions keeping;
  keeping.keeps_last = true;
  Generator kept = generator(keeping);
  GenerationRequest one = request("w3 w14 w15");
  bool is_changed = false;
  one.on_text = [&](std::string_view) {
    if (std::exchange(is_changed, true)) return;
    for (const Parameter& parameter : model_->parameters())
      if (parameter.tensor().defined()) parameter.tensor().neg_();
    kept.forget();
  };
  kept.generate(one);
  EXPECT_EQ(kept.generate(request("w3 w14 w15")).tokens, generator().generate(request("w3 w14 w15")).tokens);
}

TEST_F(GeneratorTest, NothingMayFollow) {
  GenerationRequest one = request("w1");
  for (int32_t id = 0; id < 60; ++id) one.options.bad_words_ids.push_back({id});
  Generator writer = generator();
  EXPECT_THAT(message_of(writer, one), ::testing::HasSubstr("no token is left"));
  EXPECT_EQ(writer.generate(request("w1")).tokens.size(), 12u);  // afterwards it works
}

}  // namespace
}  // namespace msplora
