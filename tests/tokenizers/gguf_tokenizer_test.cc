// The tokenizer inside a GGUF file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gguf/gguf_bytes.h"
#include "msplora/core/error.h"
#include "temporary_directory.h"
#include "tokenizers/golden_folders.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Files without tensors, packed with xz.
TEST(GoldenTokenizersGguf, GiveTheIdsAndTextsOfLlamaCpp) {
  for (const TokenizerFolder& folder : tokenizer_folders()) {
    const auto rows = read_rows(folder.path / "gguf.jsonl");
    if (folder.path.empty() || rows.empty()) continue;
    const TemporaryDirectory directory;
    const fs::path file = directory.path() / "tokenizer.gguf";
    const std::string unpack =
        "xz -dc '" + (folder.path / "tokenizer.gguf.xz").string() + "' > '" + file.string() + "'";
    if (std::system(unpack.c_str()) != 0) {
      GoldenCounts::skipped(folder.group, "GGUF (xz is not there)", static_cast<int64_t>(rows.size()));
      continue;
    }
    const auto tokenizer = Tokenizer::load(file);
    for (const json& row : rows) {
      const auto text = row["text"].get<std::string>();
      const auto ids = row["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer->encode({text, {}}).ids, ids) << text;
      EXPECT_EQ(tokenizer->decode(ids), row["decoded"].get<std::string>()) << text;
      GoldenCounts::compared(folder.group);
    }
  }
}

std::string error_of(const TemporaryDirectory& directory, const GgufBytes& bytes) {
  try {
    Tokenizer::load(bytes.write(directory.path() / "model.gguf"));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

GgufBytes byte_level(const std::string& pre = "gpt-2") {
  GgufBytes bytes;
  bytes.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", pre);
  bytes.strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<|end|>", "  "});
  bytes.array<int32_t>("tokenizer.ggml.token_type", 5, {1, 1, 1, 3, 4});
  bytes.strings("tokenizer.ggml.merges", {"a b"}).u32("tokenizer.ggml.eos_token_id", 3);
  return bytes;
}

TEST(GgufTokenizer, ByteLevel) {
  const TemporaryDirectory directory;
  const auto tokenizer = Tokenizer::load(byte_level().write(directory.path() / "model.gguf"));
  EXPECT_THAT(tokenizer->encode({"aab<|end|>  b", {}}).ids, ElementsAre(0, 2, 3, 4, 1));
  EXPECT_EQ(tokenizer->eos_id(), 3);
  EXPECT_TRUE(tokenizer->is_special(3));
  EXPECT_FALSE(tokenizer->is_special(4));
  GgufBytes around = byte_level();
  around.flag("tokenizer.ggml.add_eos_token", true);
  EXPECT_THAT(Tokenizer::load(around.write(directory.path() / "eos.gguf"))->encode({"a", {}}).ids,
              ElementsAre(0, 3));
}

GgufBytes scored() {
  GgufBytes bytes;
  bytes.string("tokenizer.ggml.model", "llama");
  bytes.strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a",
                                          "\xE2\x96\x81"
                                          "a",
                                          "  ", "<turn>"});
  bytes.array<float>("tokenizer.ggml.scores", 6, {0, 0, 0, -3, -2, -1, -1000, 0});
  bytes.array<int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3, 1, 1, 1, 4, 3});
  return bytes;
}

// A space goes in front of every stretch of text, and bos in front of all; runs of spaces that were added by
// hand are never joined.
TEST(GgufTokenizer, Scored) {
  const TemporaryDirectory directory;
  const auto tokenizer = Tokenizer::load(scored().write(directory.path() / "model.gguf"));
  EXPECT_THAT(tokenizer->encode({"aa", {}}).ids, ElementsAre(1, 5, 4));
  EXPECT_THAT(tokenizer->encode({"<turn>a", {}}).ids, ElementsAre(1, 7, 5));
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->decode({1, 5, 4}), "aa");
  GgufBytes bytes = scored();
  bytes.flag("tokenizer.ggml.add_space_prefix", false).flag("tokenizer.ggml.add_bos_token", false);
  const auto plain = Tokenizer::load(bytes.write(directory.path() / "plain.gguf"));
  EXPECT_THAT(plain->encode({"a   a", {}}).ids, ElementsAre(4, 6, 5));
}

TEST(GgufTokenizer, WordPiece) {
  const TemporaryDirectory directory;
  GgufBytes bytes;
  bytes.string("tokenizer.ggml.model", "bert");
  bytes.strings("tokenizer.ggml.tokens",
                {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\xE2\x96\x81play", "ing"});
  bytes.u32("tokenizer.ggml.unknown_token_id", 1).u32("tokenizer.ggml.cls_token_id", 2);
  bytes.u32("tokenizer.ggml.seperator_token_id", 3).u32("tokenizer.ggml.padding_token_id", 0);
  const auto tokenizer = Tokenizer::load(bytes.write(directory.path() / "model.gguf"));
  EXPECT_THAT(tokenizer->encode({"Playing zebra", {}}).ids, ElementsAre(2, 5, 6, 1, 3));
  EXPECT_EQ(tokenizer->pad_id(), 0);
}

TEST(GgufTokenizer, WhatIsNotKnownIsNamed) {
  const TemporaryDirectory directory;
  EXPECT_THAT(error_of(directory, byte_level("smolm")),
              AllOf(HasSubstr("model.gguf: tokenizer.ggml.pre"), HasSubstr("did you mean `smollm`?")));
  EXPECT_THAT(error_of(directory, byte_level("default")),
              HasSubstr("it is not known how `default` splits text"));
  GgufBytes model;
  model.string("tokenizer.ggml.model", "rwkv").strings("tokenizer.ggml.tokens", {"a"});
  EXPECT_THAT(error_of(directory, model), HasSubstr("expected gpt2, llama or bert, found `rwkv`"));
  EXPECT_THAT(error_of(directory, GgufBytes()), HasSubstr("tokenizer.ggml.model: the key is missing"));

  const auto with = [&](auto change) {
    GgufBytes bytes;
    bytes.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
    change(bytes);
    return error_of(directory, bytes);
  };
  EXPECT_THAT(with([](GgufBytes&) {}), HasSubstr("tokenizer.ggml.tokens: the key is missing"));
  EXPECT_THAT(with([](GgufBytes& b) { b.strings("tokenizer.ggml.tokens", {}); }), HasSubstr("found 0"));
  EXPECT_THAT(with([](GgufBytes& b) {
                b.strings("tokenizer.ggml.tokens", {"a", "\xFF"});
              }),
              HasSubstr("token 1 is not well-formed UTF-8"));
  EXPECT_THAT(with([](GgufBytes& b) {
                b.strings("tokenizer.ggml.tokens", {"a", "a"});
              }),
              HasSubstr("tokens 0 and 1 are the same"));
  EXPECT_THAT(with([](GgufBytes& b) { b.strings("tokenizer.ggml.tokens", {"a"}); }),
              HasSubstr("tokenizer.ggml.merges: the key is missing"));
  const auto with_tokens = [&](auto change) {
    return with([&](GgufBytes& b) {
      b.strings("tokenizer.ggml.tokens", {"a", "b"});
      change(b);
    });
  };
  EXPECT_THAT(with_tokens([](GgufBytes& b) { b.strings("tokenizer.ggml.merges", {"ab"}); }),
              HasSubstr("merge 0: expected two tokens and a space between them"));
  EXPECT_THAT(with_tokens([](GgufBytes& b) { b.array<int32_t>("tokenizer.ggml.token_type", 5, {1}); }),
              HasSubstr("expected one for each of the 2 tokens, found 1"));
  EXPECT_THAT(with_tokens([](GgufBytes& b) {
                b.array<int32_t>("tokenizer.ggml.token_type", 5, {1, 7});
              }),
              HasSubstr("expected types from 1 to 6, found 7 for token 1"));
  EXPECT_THAT(with_tokens([](GgufBytes& b) { b.u32("tokenizer.ggml.bos_token_id", 2); }),
              HasSubstr("tokenizer.ggml.bos_token_id: expected an id below 2, found 2"));

  GgufBytes scores;
  scores.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", {"<unk>", "a"});
  EXPECT_THAT(error_of(directory, scores), HasSubstr("tokenizer.ggml.scores: the key is missing"));
  scores.array<float>("tokenizer.ggml.scores", 6, {0});
  EXPECT_THAT(error_of(directory, scores), HasSubstr("expected one for each of the 2 tokens, found 1"));
}

}  // namespace
}  // namespace msplora
