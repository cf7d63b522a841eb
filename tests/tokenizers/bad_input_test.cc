#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/interrupt.h"
#include "temporary_directory.h"
#include "tokenizers/small_tokenizer.h"

namespace msplora {
namespace {
using nlohmann::json;
using testing::HasSubstr;

// Runs `action`, which must throw an Error of this code that names all of `parts`.
void expect_error(ErrorCode code, const std::vector<std::string>& parts,
                  const std::function<void()>& action) {
  try {
    action();
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const auto& part : parts) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(TokenizerBadInput, MissingFiles) {
  const TemporaryDirectory empty;
  expect_error(ErrorCode::kIo, {"absent"}, [&] { Tokenizer::load(empty.path() / "absent"); });
  expect_error(ErrorCode::kIo, {"tokenizer.json", "vocab.txt"}, [&] { Tokenizer::load(empty.path()); });
  empty.write("vocab.json", "{\"a\": 0}");
  expect_error(ErrorCode::kIo, {"merges.txt"}, [&] { Tokenizer::load(empty.path()); });
}

TEST(TokenizerBadInput, BlankLinesAtTheEndOfAVocabularyAreNoTokens) {
  for (const std::string end : {"\n", "\r\n"}) {
    const TemporaryDirectory directory;
    std::string text;
    for (const char* token : {"[UNK]", "[CLS]", "[SEP]", "", "word"}) text += token + end;
    directory.write("vocab.txt", text + end + " " + end + end);
    const auto tokenizer = Tokenizer::load(directory.path());
    EXPECT_EQ(tokenizer->vocab_size(), 5u);
    EXPECT_EQ(tokenizer->token_to_id("word"), 4);
  }
}

TEST(TokenizerBadInput, AStopEndsABatchBetweenTwoTexts) {
  const auto tokenizer = tokenizer_from({{"model", word_model({"a"})}});
  const std::vector<TextPair> texts(1000, {"a", std::nullopt});
  request_interrupt();
  expect_error(ErrorCode::kInterrupted, {"stopped"}, [&] { tokenizer->encode_batch(texts, {}, 2); });
  clear_interrupt();
  std::stop_source source;
  source.request_stop();
  {
    const StopScope scope(source.get_token());
    expect_error(ErrorCode::kInterrupted, {"stopped"}, [&] { tokenizer->encode_batch(texts, {}, 2); });
  }
  EXPECT_EQ(tokenizer->encode_batch(texts, {}, 2).size(), texts.size());
}

TEST(TokenizerBadInput, DamagedFiles) {
  const TemporaryDirectory directory;
  const auto load = [&] { Tokenizer::load(directory.path()); };
  for (const char* text : {"", "{", "[1, 2]", "{\"model\": \"\xff\"}", "null"}) {
    directory.write("tokenizer.json", text);
    expect_error(ErrorCode::kFormat, {"tokenizer.json"}, load);
  }
}

TEST(TokenizerBadInput, WhatReadersWouldTakeDifferentlyIsRefused) {
  const TemporaryDirectory directory;
  const auto load = [&] { Tokenizer::load(directory.path()); };
  const std::string good = json{{"model", word_model({"a"})}}.dump();
  directory.write("tokenizer.json", good + std::string(1, '\0') + "zzz");
  expect_error(ErrorCode::kFormat, {"tokenizer.json", "zero byte"}, load);
  directory.write("tokenizer.json",
                  "{\"decoder\": null, " + good.substr(1, good.size() - 2) + ", \"model\": {}}");
  expect_error(ErrorCode::kFormat, {"tokenizer.json", "`model` appears twice"}, load);
}

TEST(TokenizerBadInput, DeepNestingIsRefusedWithItsKey) {
  const TemporaryDirectory directory;
  const auto load = [&] { Tokenizer::load(directory.path()); };
  const std::string model = "{\"model\": " + word_model({"a"}).dump() + ", ";
  for (const auto& [key, list] : {std::pair("decoder", "decoders"),
                                  {"normalizer", "normalizers"},
                                  {"pre_tokenizer", "pretokenizers"},
                                  {"post_processor", "processors"}}) {
    std::string text = model + "\"" + key + "\": ";
    constexpr int kDepth = 20000;
    for (int i = 0; i < kDepth; ++i) text += std::string("{\"type\": \"Sequence\", \"") + list + "\": [";
    for (int i = 0; i < kDepth; ++i) text += "]}";
    directory.write("tokenizer.json", text + "}");
    expect_error(ErrorCode::kFormat, {"tokenizer.json: " + std::string(key), "levels deep"}, load);
  }
  directory.write("tokenizer.json",
                  model + "\"x\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}");
  expect_error(ErrorCode::kFormat, {"tokenizer.json: x", "levels deep"}, load);
}

TEST(TokenizerBadInput, DamagedVocabularyFiles) {
  const TemporaryDirectory bert;
  bert.write("vocab.txt", "[UNK]\nhello\n");
  expect_error(ErrorCode::kFormat, {"vocab.txt", "[CLS]"}, [&] { Tokenizer::load(bert.path()); });
  bert.write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\n\xff\n");
  expect_error(ErrorCode::kFormat, {"vocab.txt:4"}, [&] { Tokenizer::load(bert.path()); });
  const TemporaryDirectory bpe;
  bpe.write("vocab.json", R"({"a": 0, "b": 1})");
  bpe.write("merges.txt", "#version: 0.2\na b\n");
  expect_error(ErrorCode::kFormat, {"\"ab\""}, [&] { Tokenizer::load(bpe.path()); });
  bpe.write("merges.txt", "#version: 0.2\na\n");
  expect_error(ErrorCode::kFormat, {"merges.txt:2"}, [&] { Tokenizer::load(bpe.path()); });
}

TEST(TokenizerBadInput, UnknownComponentsAreNamedWithTheirPath) {
  const auto expect = [](const char* key, const json& component, const std::vector<std::string>& parts) {
    json content = {{"model", word_model({"a"})}};
    content[key] = component;
    expect_error(ErrorCode::kFormat, parts, [&] { tokenizer_from(content); });
  };
  expect("normalizer", {{"type", "Precompiled"}}, {"tokenizer.json: normalizer", "precompiled_charsmap"});
  expect("normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "NFX"}}}}},
         {"normalizer.normalizers[1]", "NFX", "did you mean"});
  expect("pre_tokenizer", {{"type", "UnicodeScripts"}}, {"tokenizer.json: pre_tokenizer", "UnicodeScripts"});
  expect("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Removed"}},
         {"pre_tokenizer.pattern.Regex", "cannot be used"});
  expect("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "removed"}},
         {"pre_tokenizer.behavior", "removed"});
  expect("post_processor", {{"type", "Other"}}, {"post_processor", "Other"});
  expect("post_processor", {{"type", "BertProcessing"}, {"cls", {"x", 99}}, {"sep", {"y", 1}}}, {"99"});
  expect("decoder", {{"type", "CTC"}}, {"tokenizer.json: decoder", "CTC"});
  expect("model", {{"type", "Trigram"}, {"vocab", json::array()}}, {"tokenizer.json: model", "Unigram"});
  expect("added_tokens", {{{"id", -1}, {"content", "x"}}}, {"added_tokens[0].id", "-1"});
  expect("padding", {{"strategy", "Longest"}}, {"padding.strategy", "Longest"});
  expect("truncation", {{"max_length", "many"}}, {"truncation.max_length", "string"});
}

TEST(TokenizerBadInput, WrongVocabularies) {
  const auto expect = [](const json& model, const std::vector<std::string>& parts) {
    expect_error(ErrorCode::kFormat, parts, [&] { tokenizer_from({{"model", model}}); });
  };
  expect({{"type", "WordPiece"}, {"vocab", {{"a", 0}}}}, {"[UNK]"});
  expect({{"type", "WordPiece"}, {"vocab", {{"a", 0}, {"[UNK]", 0}}}}, {"same id"});
  expect({{"type", "WordPiece"}, {"vocab", {{"[UNK]", -3}}}}, {"model.vocab", "-3"});
  expect({{"type", "WordPiece"}, {"vocab", {{"[UNK]", 4000000000}}}}, {"4000000000"});
  expect({{"type", "WordPiece"}, {"vocab", {{"[UNK]", 1.5}}}}, {"1.5"});
  expect({{"type", "WordPiece"}}, {"model", "vocab"});
  expect({{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", {"a"}}}, {"model.merges", "entry 0"});
  expect({{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", {"a c"}}}, {"\"c\""});
  expect({{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", json::array()}, {"unk_token", "<u>"}}, {"<u>"});
  expect({{"type", "BPE"}, {"vocab", {{"a", 0}}}}, {"merges"});
}

TEST(TokenizerBadInput, Arguments) {
  json content = {{"model", word_model({"a", "<s>"})}};
  content["post_processor"] = {{"type", "RobertaProcessing"}, {"cls", {"<s>", 2}}, {"sep", {"<s>", 2}}};
  const auto tokenizer = tokenizer_from(content);
  expect_error(ErrorCode::kUsage, {"max_length 1", "2"}, [&] {
    tokenizer->encode({"a", {}}, {.max_length = 1});
  });
  expect_error(ErrorCode::kUsage, {"max_length"}, [&] {
    tokenizer->encode_batch(std::vector<TextPair>(500, {"a", {}}), {.max_length = 1}, 3);
  });
  EXPECT_EQ(tokenizer->encode({"a", {}}, {.max_length = 2}).ids, (std::vector<int32_t>{2, 2}));
  expect_error(ErrorCode::kUsage, {"-1"}, [&] { tokenizer->id_to_token(-1); });
  expect_error(ErrorCode::kUsage, {"3"}, [&] { tokenizer->id_to_token(3); });
  EXPECT_EQ(tokenizer->decode({-5, 1, 1000000}), "a");
  EXPECT_TRUE(tokenizer->encode_batch({}).empty());
  EXPECT_FALSE(tokenizer->token_to_id("zzz").has_value());
}

TEST(TokenizerBadInput, DamagedUtf8IsEncodedAsReplacementCharacters) {
  json content = {{"model", word_model({"a", "\ufffd"})}, {"pre_tokenizer", {{"type", "BertPreTokenizer"}}}};
  content["normalizer"] = {{"type", "NFC"}};
  const auto tokenizer = tokenizer_from(content);
  EXPECT_EQ(tokens_of(*tokenizer, "a \xff a"), (std::vector<std::string>{"a", "\ufffd", "a"}));
  // Every pair of bytes, alone and between letters: nothing may be read past the end.
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; second += 5) {
      const std::string bytes = {static_cast<char>(first), static_cast<char>(second)};
      tokenizer->encode({bytes, {}});
      tokenizer->encode({"a" + bytes + "a", bytes});
    }
  }
}

}  // namespace
}  // namespace msplora
