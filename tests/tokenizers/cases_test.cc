// The golden groups `tokenizers` and `tokenizers-next`: folders with a tokenizer.json and what Hugging Face's
// tokenizers gave for it (cases.jsonl, truncation.jsonl, stream.jsonl), with the truncation and padding that
// the file asks for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "golden_cases.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/tokenizers/decode_stream.h"
#include "msplora/tokenizers/tokenizer.h"
#include "temporary_directory.h"
#include "tokenizers/golden_folders.h"

namespace msplora {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int32_t>;

struct TokenizerCase {
  std::string text;
  std::optional<std::string> pair;
  Ids ids;
  Ids type_ids;
  std::optional<Ids> ids_plain;                // without special tokens
  std::optional<std::vector<size_t>> offsets;  // of ids, flat, in bytes
  std::optional<std::string> decoded, decoded_with_special;

  TextPair input() const { return {text, pair ? std::optional<std::string_view>(*pair) : std::nullopt}; }
};

std::vector<TokenizerCase> read_cases(const fs::path& directory) {
  std::vector<TokenizerCase> cases;
  for (const json& row : read_rows(directory / "cases.jsonl")) {
    TokenizerCase c;
    c.text = row.at("text");
    if (row.contains("pair")) c.pair = row["pair"].get<std::string>();
    c.ids = row.at("ids").get<Ids>();
    // Left out where they are all 0.
    c.type_ids = row.contains("type_ids") ? row["type_ids"].get<Ids>() : Ids(c.ids.size(), 0);
    if (row.contains("ids_plain")) c.ids_plain = row["ids_plain"].get<Ids>();
    if (row.contains("offsets")) c.offsets = row["offsets"].get<std::vector<size_t>>();
    if (row.contains("decoded")) c.decoded = row["decoded"].get<std::string>();
    if (row.contains("decoded_with_special")) c.decoded_with_special = row["decoded_with_special"];
    cases.push_back(std::move(c));
  }
  return cases;
}

size_t characters(const std::string& text, size_t bytes) {
  return static_cast<size_t>(std::count_if(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(bytes),
                                           [](char byte) { return (byte & 0xC0) != 0x80; }));
}

// The ids of the path that follows where tokens come from are those of the path that does not.
void check_offsets(const Tokenizer& tokenizer, const TokenizerCase& c, const EncodeOptions& settings) {
  EncodeOptions options = settings;
  options.offsets = OffsetUnit::kBytes;
  const Encoding bytes = tokenizer.encode(c.input(), options);
  EXPECT_EQ(bytes.ids, c.ids);
  EXPECT_EQ(bytes.type_ids, c.type_ids);
  ASSERT_EQ(bytes.offsets.size(), bytes.ids.size());
  if (c.offsets) {
    EXPECT_EQ(flat(bytes.offsets), *c.offsets);
  }
  if (c.pair) return;
  options.offsets = OffsetUnit::kCharacters;
  const Encoding counted = tokenizer.encode(c.input(), options);
  ASSERT_EQ(counted.offsets.size(), bytes.offsets.size());
  for (size_t i = 0; i < bytes.offsets.size(); ++i) {
    EXPECT_EQ(counted.offsets[i].begin, characters(c.text, bytes.offsets[i].begin));
    EXPECT_EQ(counted.offsets[i].end, characters(c.text, bytes.offsets[i].end));
  }
}

void check_cases(const Tokenizer& tokenizer, const std::vector<TokenizerCase>& cases) {
  const EncodeOptions with{.use_file_settings = true};
  const EncodeOptions plain{.add_special_tokens = false, .use_file_settings = true};
  for (size_t i = 0; i < cases.size(); ++i) {
    const TokenizerCase& c = cases[i];
    SCOPED_TRACE("line " + std::to_string(i + 1) + ": " + c.text);
    const Encoding encoding = tokenizer.encode(c.input(), with);
    EXPECT_EQ(encoding.ids, c.ids);
    EXPECT_EQ(encoding.type_ids, c.type_ids);
    check_offsets(tokenizer, c, with);
    if (c.ids_plain) {
      EXPECT_EQ(tokenizer.encode(c.input(), plain).ids, *c.ids_plain);
    }
    if (c.decoded) {
      EXPECT_EQ(tokenizer.decode(c.ids_plain.value_or(c.ids)), *c.decoded);
    }
    if (c.decoded_with_special) {
      EXPECT_EQ(tokenizer.decode(c.ids, false), *c.decoded_with_special);
    }
  }
}

class GoldenTokenizers : public testing::TestWithParam<TokenizerFolder> {
 protected:
  void SetUp() override {
    if (path().empty()) GTEST_SKIP() << "no cases of tokenizers";
    if (!fs::exists(path() / "tokenizer.json")) GTEST_SKIP() << "no tokenizer.json";
    document_ = json::parse(read_file(path() / "tokenizer.json"));
    cases_ = read_cases(path());
    ASSERT_FALSE(cases_.empty()) << path() << " has no cases.jsonl";
  }

  const fs::path& path() const { return GetParam().path; }

  json document_;
  std::vector<TokenizerCase> cases_;
};

TEST_P(GoldenTokenizers, Cases) {
  check_cases(*Tokenizer::load(path()), cases_);
  GoldenCounts::compared(GetParam().group, static_cast<int64_t>(cases_.size()));
}

TEST_P(GoldenTokenizers, Truncation) {
  const std::vector<json> rows = read_rows(path() / "truncation.jsonl");
  const auto tokenizer = Tokenizer::load(path());
  for (size_t i = 0; i < rows.size(); ++i) {
    const json& row = rows[i];
    SCOPED_TRACE("line " + std::to_string(i + 1) + ": " + row.dump());
    EncodeOptions options;
    options.max_length = row["max_length"];
    options.stride = row["stride"];
    options.truncate_left = row["direction"] == "left";
    options.truncation = row["strategy"] == "longest_first" ? TruncationStrategy::kLongestFirst
                         : row["strategy"] == "only_first"  ? TruncationStrategy::kOnlyFirst
                                                            : TruncationStrategy::kOnlySecond;
    const auto text = row["text"].get<std::string>();
    const auto pair = row["pair"].is_null() ? std::string() : row["pair"].get<std::string>();
    TextPair input{text, std::nullopt};
    if (!row["pair"].is_null()) input.pair = pair;
    if (tokenizer->special_tokens_added(input.pair.has_value()) > options.max_length) {
      // The library truncates nothing then; here it is an error.
      EXPECT_THROW(tokenizer->encode(input, options), Error);
      GoldenCounts::skipped(GetParam().group, "lengths below the special tokens");
      continue;
    }
    GoldenCounts::compared(GetParam().group);
    if (row.contains("error")) {
      EXPECT_THROW(tokenizer->encode(input, options), Error);
      EXPECT_THROW(tokenizer->encode_windows(input, options), Error);
      continue;
    }
    const Encoding encoding = tokenizer->encode(input, options);
    EXPECT_EQ(encoding.ids, row["ids"].get<Ids>());
    EXPECT_EQ(encoding.type_ids, row["type_ids"].get<Ids>());
    const std::vector<Encoding> windows = tokenizer->encode_windows(input, options);
    EXPECT_EQ(windows[0].ids, encoding.ids);
    std::vector<Ids> further;
    for (size_t w = 1; w < windows.size(); ++w) further.push_back(windows[w].ids);
    EXPECT_EQ(further, row["overflow"].get<std::vector<Ids>>());
    options.offsets = OffsetUnit::kBytes;
    const std::vector<Encoding> traced = tokenizer->encode_windows(input, options);
    ASSERT_EQ(traced.size(), windows.size());
    for (size_t w = 0; w < windows.size(); ++w) {
      EXPECT_EQ(traced[w].ids, windows[w].ids);
      EXPECT_EQ(traced[w].offsets.size(), windows[w].ids.size());
    }
  }
}

// Two rows stored in the file itself, which is what most files have.
TEST_P(GoldenTokenizers, StoredTruncation) {
  const TemporaryDirectory copy;
  size_t compared = 0;
  for (const json& row : read_rows(path() / "truncation.jsonl")) {
    if (row.contains("error") || row["overflow"].empty() || row["strategy"] != "longest_first") continue;
    if (compared++ == 2) break;
    SCOPED_TRACE(row.dump());
    document_["truncation"] = {{"direction", row["direction"] == "left" ? "Left" : "Right"},
                               {"max_length", row["max_length"]},
                               {"strategy", "LongestFirst"},
                               {"stride", row["stride"]}};
    std::ofstream(copy.path() / "tokenizer.json") << document_.dump();
    const auto text = row["text"].get<std::string>();
    const auto pair = row["pair"].is_null() ? std::string() : row["pair"].get<std::string>();
    TextPair input{text, std::nullopt};
    if (!row["pair"].is_null()) input.pair = pair;
    const auto windows = Tokenizer::load(copy.path())->encode_windows(input, {.use_file_settings = true});
    ASSERT_EQ(windows.size(), row["overflow"].size() + 1);
    EXPECT_EQ(windows[0].ids, row["ids"].get<Ids>());
    EXPECT_EQ(windows[1].ids, row["overflow"][0].get<Ids>());
  }
}

TEST_P(GoldenTokenizers, Streams) {
  const std::vector<json> rows = read_rows(path() / "stream.jsonl");
  const auto tokenizer = Tokenizer::load(path());
  for (const json& row : rows) {
    SCOPED_TRACE(row.dump());
    check_stream(tokenizer, row);
  }
  GoldenCounts::compared(GetParam().group, static_cast<int64_t>(rows.size()));
}

TEST_P(GoldenTokenizers, BatchesOnAnyNumberOfThreadsAgree) {
  const auto tokenizer = Tokenizer::load(path());
  const json& padding = document_["padding"];
  const bool left = padding.is_object() && padding.value("direction", "Right") == "Left";
  // Padding to the longest differs between a batch and a single text, by its amount alone.
  const auto unpadded = [left](const Encoding& encoding) {
    const auto size = static_cast<std::ptrdiff_t>(encoding.padding_tokens);
    return left ? Ids(encoding.ids.begin() + size, encoding.ids.end())
                : Ids(encoding.ids.begin(), encoding.ids.end() - size);
  };
  std::vector<TextPair> texts;
  for (const auto& c : cases_) texts.push_back(c.input());
  for (const int threads : {0, 1, 2, 5}) {
    const auto batch = tokenizer->encode_batch(texts, {.use_file_settings = true}, threads);
    ASSERT_EQ(batch.size(), cases_.size());
    for (size_t i = 0; i < cases_.size(); ++i) {
      const Encoding single = tokenizer->encode(texts[i], {.use_file_settings = true});
      EXPECT_EQ(unpadded(batch[i]), unpadded(single)) << threads << " threads, line " << i + 1;
      if (padding.is_object()) {
        EXPECT_EQ(batch[i].ids.size(), batch[0].ids.size());
      }
    }
  }
}

TEST_P(GoldenTokenizers, SavedCopyIsTheSameFile) {
  const TemporaryDirectory copy;
  Tokenizer::load(path())->save(copy.path());
  EXPECT_EQ(read_file(copy.path() / "tokenizer.json"), read_file(path() / "tokenizer.json"));
  check_cases(*Tokenizer::load(copy.path()), cases_);
}

// The older vocabulary files store neither truncation nor padding, so the limit is given and padding is left
// out.
TEST_P(GoldenTokenizers, VocabularyFiles) {
  if (!fs::exists(path() / "vocab.txt") && !fs::exists(path() / "vocab.json"))
    GTEST_SKIP() << path() << " has no vocabulary files";
  const TemporaryDirectory old;
  for (const char* name : {"vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json", "config.json"}) {
    if (fs::exists(path() / name)) fs::copy_file(path() / name, old.path() / name);
  }
  const auto reference = Tokenizer::load(path());
  const auto tokenizer = Tokenizer::load(old.path());
  EXPECT_EQ(tokenizer->vocab_size(), reference->vocab_size());
  EXPECT_EQ(tokenizer->cls_id(), reference->cls_id());
  EXPECT_EQ(tokenizer->sep_id(), reference->sep_id());
  EXPECT_EQ(tokenizer->mask_id(), reference->mask_id());
  const size_t limit =
      document_["truncation"].is_null() ? 0 : document_["truncation"]["max_length"].get<size_t>();
  for (size_t i = 0; i < cases_.size(); ++i) {
    SCOPED_TRACE("line " + std::to_string(i + 1) + ": " + cases_[i].text);
    const size_t padding = reference->encode(cases_[i].input(), {.use_file_settings = true}).padding_tokens;
    const auto without_padding = [padding](Ids ids) {
      ids.resize(ids.size() - padding);
      return ids;
    };
    const Encoding encoding = tokenizer->encode(cases_[i].input(), {.max_length = limit});
    EXPECT_EQ(encoding.ids, without_padding(cases_[i].ids));
    EXPECT_EQ(encoding.type_ids, without_padding(cases_[i].type_ids));
    if (cases_[i].decoded) {
      EXPECT_EQ(tokenizer->decode(*cases_[i].ids_plain), *cases_[i].decoded);
    }
  }
  const TemporaryDirectory converted;
  tokenizer->save(converted.path());
  const auto again = Tokenizer::load(converted.path());
  for (const auto& c : cases_)
    EXPECT_EQ(again->encode(c.input()).ids, tokenizer->encode(c.input()).ids) << c.text;
  GoldenCounts::compared(GetParam().group, static_cast<int64_t>(cases_.size()));
}

INSTANTIATE_TEST_SUITE_P(Folders, GoldenTokenizers, testing::ValuesIn(tokenizer_folders()), folder_name);

}  // namespace
}  // namespace msplora
