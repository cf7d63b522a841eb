// tokenizer.model by itself: the ids, texts and offsets of SentencePiece (spm.jsonl, spm_stream.jsonl).
// Vocabularies of tiktoken, made from folders whose ids are ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "temporary_directory.h"
#include "tokenizers/base64.h"
#include "tokenizers/golden_folders.h"
#include "tokenizers/unicode.h"

namespace msplora {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using Ids = std::vector<int32_t>;

class GoldenTokenizersSentencePiece : public testing::TestWithParam<TokenizerFolder> {
 protected:
  void SetUp() override {
    if (path().empty()) GTEST_SKIP() << "no cases of tokenizers";
    // spm-bpe-llama-first has the other JSON form of the same model.
    if (!fs::exists(path() / "spm.jsonl")) GTEST_SKIP() << "nothing of SentencePiece";
    if (!fs::exists(path() / "tokenizer.model")) {
      GoldenCounts::skipped(GetParam().group, "a tokenizer.model that is not here",
                            static_cast<int64_t>(read_rows(path() / "spm.jsonl").size()));
      GTEST_SKIP() << "no tokenizer.model";
    }
    fs::copy_file(path() / "tokenizer.model", alone_.path() / "tokenizer.model");
    tokenizer_ = Tokenizer::load(alone_.path());
  }

  const fs::path& path() const { return GetParam().path; }
  TemporaryDirectory alone_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(GoldenTokenizersSentencePiece, IdsOffsetsAndTexts) {
  const std::vector<json> rows = read_rows(path() / "spm.jsonl");
  for (size_t i = 0; i < rows.size(); ++i) {
    const json& row = rows[i];
    SCOPED_TRACE("line " + std::to_string(i + 1) + ": " + row.dump());
    const std::string text = row.contains("text")
                                 ? row["text"].get<std::string>()
                                 : *detail::decode_base64(row["text_b64"].get<std::string>());
    const auto ids = row["ids"].get<Ids>();
    EXPECT_EQ(tokenizer_->encode({text, {}}).ids, ids);
    const Encoding traced = tokenizer_->encode({text, {}}, {.offsets = OffsetUnit::kBytes});
    EXPECT_EQ(traced.ids, ids);
    if (row.contains("offsets")) {
      EXPECT_EQ(flat(traced.offsets), row["offsets"].get<std::vector<size_t>>());
    }
    if (row.contains("decoded")) {
      EXPECT_EQ(tokenizer_->decode(ids), row["decoded"].get<std::string>());
    }
  }
  GoldenCounts::compared(GetParam().group, static_cast<int64_t>(rows.size()));
}

TEST_P(GoldenTokenizersSentencePiece, Streams) {
  const std::vector<json> rows = read_rows(path() / "spm_stream.jsonl");
  for (const json& row : rows) {
    SCOPED_TRACE(row.dump());
    check_stream(tokenizer_, row);
  }
  GoldenCounts::compared(GetParam().group, static_cast<int64_t>(rows.size()));
}

TEST_P(GoldenTokenizersSentencePiece, SavedCopyIsTheSameFile) {
  const TemporaryDirectory copy;
  tokenizer_->save(copy.path());
  EXPECT_EQ(read_file(copy.path() / "tokenizer.model"), read_file(path() / "tokenizer.model"));
  const auto again = Tokenizer::load(copy.path());
  EXPECT_EQ(again->vocab_size(), tokenizer_->vocab_size());
  EXPECT_EQ(again->bos_id(), tokenizer_->bos_id());
  EXPECT_EQ(again->encode({"Hello, world!", {}}).ids, tokenizer_->encode({"Hello, world!", {}}).ids);
}

// A damaged file gives an error or a tokenizer, whatever byte of it is hit, and either way an end.
TEST_P(GoldenTokenizersSentencePiece, DamagedFiles) {
  const std::string content = read_file(path() / "tokenizer.model");
  if (content.size() > 20000) GTEST_SKIP() << "the small ones will do";
  std::mt19937 random(1);
  const TemporaryDirectory directory;
  for (int i = 0; i < 60; ++i) {
    std::string damaged = content;
    if (i % 3 == 0)
      damaged.resize(random() % damaged.size());
    else
      for (int j = 0; j < 3; ++j) damaged[random() % damaged.size()] = static_cast<char>(random());
    std::ofstream(directory.path() / "tokenizer.model", std::ios::binary) << damaged;
    try {
      const auto tokenizer = Tokenizer::load(directory.path());
      const Encoding encoding = tokenizer->encode({"Hello, \xF0\x9F\x98\x80 the   w\xC3\xB6rld\xFF", {}});
      tokenizer->decode(encoding.ids);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("tokenizer.model"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, GoldenTokenizersSentencePiece, testing::ValuesIn(tokenizer_folders()),
                         folder_name);

class SentencePieceDirectories : public testing::Test {
 protected:
  void SetUp() override {
    for (const TokenizerFolder& folder : tokenizer_folders()) {
      if (!folder.path.empty() && fs::exists(folder.path / "tokenizer.model") &&
          fs::file_size(folder.path / "tokenizer.model") < 20000)
        model_ = folder.path / "tokenizer.model";
    }
    if (model_.empty()) GTEST_SKIP() << "no tokenizer.model";
    fs::copy_file(model_, directory_.path() / "tokenizer.model");
    alone_ = Tokenizer::load(directory_.path())->encode({"the film", {}}).ids;
  }
  Ids ids(const std::shared_ptr<const Tokenizer>& tokenizer) const {
    return tokenizer->encode({"the film", {}}).ids;
  }

  fs::path model_;
  TemporaryDirectory directory_;
  Ids alone_;
};

TEST_F(SentencePieceDirectories, TheClassSaysWhatStandsAroundATextOrIsRefused) {
  directory_.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  const auto llama = Tokenizer::load(directory_.path());
  Ids expected = {*llama->bos_id()};
  expected.insert(expected.end(), alone_.begin(), alone_.end());
  EXPECT_EQ(ids(llama), expected);
  directory_.write("tokenizer_config.json",
                   R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false})");
  EXPECT_EQ(ids(Tokenizer::load(directory_.path())), alone_);

  directory_.write("tokenizer_config.json", R"({"tokenizer_class": "T5Tokenizer", "extra_ids": 3})");
  const auto t5 = Tokenizer::load(directory_.path());
  expected = alone_;
  expected.push_back(*t5->eos_id());
  EXPECT_EQ(ids(t5), expected);
  EXPECT_EQ(t5->vocab_size(), llama->vocab_size() + 3);
  EXPECT_EQ(t5->token_to_id("<extra_id_0>"), static_cast<int32_t>(t5->vocab_size()) - 1);

  // XLM-R's ids are shifted by one.
  directory_.write("tokenizer_config.json", R"({"tokenizer_class": "XLMRobertaTokenizer"})");
  try {
    Tokenizer::load(directory_.path());
    FAIL() << "loaded";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("XLMRobertaTokenizer"));
  }
}

TEST_F(SentencePieceDirectories, TokensBehindThePiecesAreFoundInText) {
  const size_t pieces = Tokenizer::load(directory_.path())->vocab_size();
  directory_.write("added_tokens.json", "{\"<extra>\": " + std::to_string(pieces) + "}");
  const auto tokenizer = Tokenizer::load(directory_.path());
  const Encoding encoding =
      tokenizer->encode({"the film<extra>the film", {}}, {.offsets = OffsetUnit::kBytes});
  Ids expected = alone_;
  expected.push_back(static_cast<int32_t>(pieces));
  expected.insert(expected.end(), alone_.begin(), alone_.end());
  EXPECT_EQ(encoding.ids, expected);
  EXPECT_EQ(encoding.offsets[alone_.size()], (TextSpan{8, 15}));
  EXPECT_EQ(encoding.offsets.back().end, 23u);
}

TEST(SentencePieceBadInput, FilesThatAreNoModel) {
  const TemporaryDirectory directory;
  const std::pair<std::string, const char*> cases[] = {
      {"", "no pieces"},
      {"hello", "wire type"},
      {std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11), "more bytes"},
      {std::string("\x0A\x00", 2), "piece 0: the piece is empty"},
      {std::string("\x0A\x03\x0A\x01\x61", 5), "type unknown"},
      {std::string("\x0A\x03\x0A\x01\xFF", 5), "UTF-8"}};
  for (const auto& [content, part] : cases) {
    directory.write("tokenizer.model", content);
    try {
      Tokenizer::load(directory.path());
      ADD_FAILURE() << "loaded: " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat);
      EXPECT_THAT(error.what(), HasSubstr(part));
      EXPECT_THAT(error.what(), HasSubstr("tokenizer.model"));
    }
  }
}

TEST(TiktokenBadInput, FilesThatAreNoRanks) {
  const TemporaryDirectory directory;
  const auto expect = [&](const std::string& name, const std::string& content, const char* part) {
    try {
      Tokenizer::load(directory.write(name, content));
      ADD_FAILURE() << "loaded: " << part;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
      EXPECT_THAT(error.what(), HasSubstr(name));
    }
  };
  expect("gpt2.tiktoken", "IQ== 0\nIg== 7\n", "gpt2.tiktoken:2");
  expect("gpt2.tiktoken", "IQ== 0\n", "single byte");
  expect("unheard_of.tiktoken", "IQ== 0\n", "cl100k_base.tiktoken");
  expect("tekken.json", "{\"config\": {\"pattern\": \"a\"}}", "default_num_special_tokens");
}

std::string encode_base64(const std::string& bytes) {
  constexpr const char* kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    uint32_t bits = 0;
    for (size_t i = 0; i < 3; ++i)
      bits = bits << 8 | (at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    for (size_t i = 0; i < 4; ++i)
      text.push_back(at + i > bytes.size() ? '=' : kAlphabet[bits >> (18 - 6 * i) & 63]);
  }
  return text;
}

std::string bytes_of(const std::string& token) {
  std::string bytes;
  for (const char *p = token.data(), *end = p + token.size(); p < end;)
    bytes.push_back(static_cast<char>(detail::byte_of_alphabet(detail::next_code_point(p))));
  return bytes;
}

// tekken.json with the vocabulary and the pattern of a folder's tokenizer.json, whose two special tokens come
// first.
json tekken_of(const json& document) {
  json vocab = json::array();
  std::vector<std::string> tokens(document["model"]["vocab"].size());
  for (const auto& item : document["model"]["vocab"].items()) tokens[item.value().get<size_t>()] = item.key();
  for (size_t i = 2; i < tokens.size(); ++i)
    vocab.push_back({{"rank", i - 2}, {"token_bytes", encode_base64(bytes_of(tokens[i]))}});
  return {{"config",
           {{"pattern", document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]},
            {"default_vocab_size", tokens.size()},
            {"default_num_special_tokens", 2}}},
          {"vocab", vocab}};
}

TEST(GoldenTokenizersTiktoken, TekkenGivesTheIdsOfTheSameRanks) {
  for (const TokenizerFolder& folder : tokenizer_folders()) {
    if (folder.path.filename() != "json-split-llama3") continue;
    const TemporaryDirectory directory;
    const json document = json::parse(read_file(folder.path / "tokenizer.json"));
    directory.write("tekken.json", tekken_of(document).dump());
    const auto tokenizer = Tokenizer::load(directory.path());
    EXPECT_EQ(tokenizer->special_tokens_added(false), 1u);
    for (const json& row : read_rows(folder.path / "cases.jsonl")) {
      if (row.contains("pair")) continue;
      const auto text = row["text"].get<std::string>();
      // The special tokens have other names.
      if (text.find('<') != std::string::npos) continue;
      SCOPED_TRACE(text);
      const Encoding encoding = tokenizer->encode({text, {}}, {.add_special_tokens = false});
      EXPECT_EQ(encoding.ids, row["ids_plain"].get<Ids>());
      EXPECT_EQ(tokenizer->decode(encoding.ids), text);
      GoldenCounts::compared(folder.group);
    }
  }
}

// GPT-2's ids are ranks.
TEST(GoldenTokenizersTiktoken, RankFilesGiveTheIdsOfTheirRanks) {
  for (const TokenizerFolder& folder : tokenizer_folders()) {
    if (folder.path.filename() != "gpt2") continue;
    const json vocabulary = json::parse(read_file(folder.path / "vocab.json"));
    std::vector<std::string> lines(vocabulary.size());
    for (const auto& item : vocabulary.items()) {
      const auto rank = item.value().get<size_t>();
      lines[rank] = encode_base64(bytes_of(item.key())) + " " + std::to_string(rank) + "\n";
    }
    lines.pop_back();  // <|endoftext|>
    const TemporaryDirectory directory;
    std::string content;
    for (const std::string& line : lines) content += line;
    directory.write("gpt2.tiktoken", content);
    const auto tokenizer = Tokenizer::load(directory.path());
    for (const json& row : read_rows(folder.path / "cases.jsonl")) {
      const auto text = row["text"].get<std::string>();
      if (row.contains("pair") || text.find("<|endoftext|>") != std::string::npos) continue;
      SCOPED_TRACE(text);
      EXPECT_EQ(tokenizer->encode({text, {}}).ids, row["ids"].get<Ids>());
      GoldenCounts::compared(folder.group);
    }
    const TemporaryDirectory copy;
    tokenizer->save(copy.path());
    EXPECT_EQ(read_file(copy.path() / "gpt2.tiktoken"), content);
  }
}

// What stands in the groups and cannot be read from them: only ids of vocabularies that are not here.
TEST(GoldenTokenizersTiktoken, CountsWhatIsNotHere) {
  for (const TokenizerFolder& folder : tokenizer_folders()) {
    if (folder.path.empty()) GTEST_SKIP() << "no cases of tokenizers";
    const auto rows = [&](const char* file) {
      return static_cast<int64_t>(read_rows(folder.path / file).size());
    };
    if (const auto count = rows("tiktoken.jsonl"); count > 0 && !fs::exists(folder.path / "tekken.json"))
      GoldenCounts::skipped(folder.group, "a tekken.json that is not here", count);
  }
}

}  // namespace
}  // namespace msplora
