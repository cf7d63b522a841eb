// Tokenizers as keys of GGUF: read back they give the same ids, or they are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "error_text.h"
#include "golden_cases.h"
#include "msplora/core/error.h"
#include "msplora/gguf/file.h"
#include "msplora/gguf/writer.h"
#include "msplora/tokenizers/gguf_export.h"
#include "msplora/tokenizers/tokenizer.h"
#include "temporary_directory.h"
#include "tokenizers/byte_pieces.h"
#include "tokenizers/golden_folders.h"

namespace msplora {
namespace {
namespace fs = std::filesystem;
using ::testing::HasSubstr;

/// A file with the tokenizer and one number.
fs::path write_with_tokenizer(const fs::path& source, int64_t rows, const TemporaryDirectory& directory) {
  GgufWriter file;
  file.set(gguf_key::kArchitecture, "llama");
  export_tokenizer(source, rows, file);
  file.add("x", GgufType::kF32, {1}, [](int64_t, int64_t, float* values) { *values = 0.0F; });
  const fs::path path = directory.path() / "t.gguf";
  file.write(path);
  return path;
}

std::vector<std::string> special_tokens(const Tokenizer& tokenizer) {
  std::vector<std::string> tokens;
  for (size_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_special(static_cast<int32_t>(id)))
      tokens.push_back(tokenizer.id_to_token(static_cast<int32_t>(id)));
  }
  return tokens;
}

nlohmann::json byte_fallback_tokenizer() {
  nlohmann::json vocabulary = {{"<unk>", 0}, {"a", 1}, {"<0xZZ>", 2}};
  for (int byte = 0; byte < 256; ++byte)
    vocabulary[detail::byte_piece(static_cast<uint8_t>(byte))] = vocabulary.size();
  return {{"model",
           {{"type", "BPE"},
            {"byte_fallback", true},
            {"unk_token", "<unk>"},
            {"vocab", vocabulary},
            {"merges", nlohmann::json::array()}}}};
}

TEST(GgufTokenizerExport, WhatIsSpelledLikeAByteIsNone) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", byte_fallback_tokenizer().dump());
  const auto file = GgufFile::open(write_with_tokenizer(directory.path(), 259, directory));
  const auto types = file->integers(gguf_key::kTokenTypes);
  ASSERT_TRUE(types && types->size() == 259U);
  EXPECT_EQ((*types)[2], static_cast<int64_t>(GgufTokenType::kNormal));
  EXPECT_EQ((*types)[3], static_cast<int64_t>(GgufTokenType::kByte));
}

TEST(GgufTokenizerExport, TemplatesAreThoseThatAChatWouldTake) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", byte_fallback_tokenizer().dump());
  directory.write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "default", "template": "A"}, {"name": "b", "template": "B"}]})");
  const auto file = GgufFile::open(write_with_tokenizer(directory.path(), 259, directory));
  EXPECT_EQ(file->text(gguf_key::kChatTemplate), "A");
  EXPECT_EQ(file->text(std::string(gguf_key::kChatTemplate) + ".b"), "B");
  for (const char* bad : {"3", R"([{"name": 3, "template": "A"}])", "[7]", R"([{"name": "default"}])"}) {
    directory.write("tokenizer_config.json", std::string("{\"chat_template\": ") + bad + "}");
    EXPECT_THAT(
        error_text(ErrorCode::kFormat, [&] { write_with_tokenizer(directory.path(), 259, directory); }),
        HasSubstr("tokenizer_config.json: chat_template: expected a text, or a list of"));
  }
}

class GoldenTokenizersInGguf : public ::testing::TestWithParam<TokenizerFolder> {};

TEST_P(GoldenTokenizersInGguf, GiveTheSameIdsOrAreRefused) {
  const bool has_tokenizer = !GetParam().path.empty() && (fs::exists(GetParam().path / "tokenizer.json") ||
                                                          fs::exists(GetParam().path / "tokenizer.model"));
  if (!has_tokenizer) GTEST_SKIP() << "no tokenizer in the cases";
  const TemporaryDirectory directory;
  const auto own = Tokenizer::load(GetParam().path);
  const int64_t rows = static_cast<int64_t>(own->vocab_size()) + 3;
  std::shared_ptr<const Tokenizer> read;
  try {
    read = Tokenizer::load(write_with_tokenizer(GetParam().path, rows, directory));
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("GGUF has no form for"));
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    GTEST_SKIP() << error.what();
  }
  EXPECT_EQ(static_cast<int64_t>(read->vocab_size()), rows);
  // A directory that is made from the file has the same tokenizer.
  read->save(directory.path() / "saved");
  const auto saved = Tokenizer::load(directory.path() / "saved");
  const std::vector<std::string> special = special_tokens(*read);
  const auto file = GgufFile::open(directory.path() / "t.gguf");
  const bool is_pieces = file->text(gguf_key::kTokenizerModel) == "llama";
  int64_t compared = 0;
  for (const char* name : {"cases.jsonl", "spm.jsonl"}) {
    for (const nlohmann::json& row : read_rows(GetParam().path / name)) {
      if (!row.contains("text") || row.contains("pair")) continue;
      const auto text = row["text"].get<std::string>();
      // The name of a special token is text to SentencePiece and that token in a file of GGUF.
      const bool has_special = std::any_of(special.begin(), special.end(), [&](const std::string& token) {
        return text.find(token) != std::string::npos;
      });
      if (has_special && !fs::exists(GetParam().path / "tokenizer.json")) continue;
      // U+2581 is a space there.
      if (is_pieces && text.find("\xE2\x96\x81\xE2\x96\x81") != std::string::npos) continue;
      EXPECT_EQ(read->encode({text, {}}).ids, own->encode({text, {}}).ids) << text;
      EXPECT_EQ(saved->encode({text, {}}).ids, own->encode({text, {}}).ids) << text;
      ++compared;
    }
  }
  EXPECT_GT(compared, 0);
}

INSTANTIATE_TEST_SUITE_P(Folders, GoldenTokenizersInGguf, ::testing::ValuesIn(tokenizer_folders()),
                         folder_name);

}  // namespace
}  // namespace msplora
