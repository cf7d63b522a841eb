// The golden groups `tokenizers` and `tokenizers-next`: folders with a tokenizer.json and what Hugging Face's
// tokenizers gave for it (cases.jsonl, truncation.jsonl), with the truncation and padding that the file asks
// for.
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
#include "msplora/tokenizers/tokenizer.h"
#include "tokenizers/temporary_directory.h"

namespace msplora {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int32_t>;

struct TokenizerFolder {
  std::string group;
  fs::path path;  // "" stands for "no cases"
};

struct TokenizerCase {
  std::string text;
  std::optional<std::string> pair;
  Ids ids;
  Ids type_ids;
  std::optional<Ids> ids_plain;  // without special tokens
  std::optional<std::string> decoded, decoded_with_special;

  TextPair input() const { return {text, pair ? std::optional<std::string_view>(*pair) : std::nullopt}; }
};

std::vector<TokenizerFolder> tokenizer_folders() {
  std::vector<TokenizerFolder> folders;
  for (const char* group : {"tokenizers", "tokenizers-next"}) {
    const fs::path root = golden_group(group);
    if (root.empty()) continue;
    for (const auto& entry : fs::directory_iterator(root)) {
      if (entry.is_directory()) folders.push_back({group, entry.path()});
    }
  }
  std::sort(folders.begin(), folders.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  if (folders.empty()) folders.push_back({});
  return folders;
}

std::vector<json> read_rows(const fs::path& file) {
  std::vector<json> rows;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) rows.push_back(json::parse(line));
  return rows;
}

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
    if (row.contains("decoded")) c.decoded = row["decoded"].get<std::string>();
    if (row.contains("decoded_with_special")) c.decoded_with_special = row["decoded_with_special"];
    cases.push_back(std::move(c));
  }
  return cases;
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

// truncation.jsonl, each row as the settings of the file.
TEST_P(GoldenTokenizers, Truncation) {
  const std::vector<json> rows = read_rows(path() / "truncation.jsonl");
  const TemporaryDirectory copy;
  for (size_t i = 0; i < rows.size(); ++i) {
    const json& row = rows[i];
    SCOPED_TRACE("line " + std::to_string(i + 1) + ": " + row.dump());
    const std::string strategy = row["strategy"] == "longest_first" ? "LongestFirst"
                                 : row["strategy"] == "only_first"  ? "OnlyFirst"
                                                                    : "OnlySecond";
    document_["truncation"] = {{"direction", row["direction"] == "left" ? "Left" : "Right"},
                               {"max_length", row["max_length"]},
                               {"strategy", strategy},
                               {"stride", row["stride"]}};
    std::ofstream(copy.path() / "tokenizer.json") << document_.dump();
    const auto tokenizer = Tokenizer::load(copy.path());
    const auto text = row["text"].get<std::string>();
    const auto pair = row["pair"].is_null() ? std::string() : row["pair"].get<std::string>();
    TextPair input{text, std::nullopt};
    if (!row["pair"].is_null()) input.pair = pair;
    const EncodeOptions options{.use_file_settings = true};
    if (tokenizer->special_tokens_added(input.pair.has_value()) > row["max_length"].get<size_t>()) {
      // The library truncates nothing then; here it is an error.
      EXPECT_THROW(tokenizer->encode(input, options), Error);
      GoldenCounts::skipped(GetParam().group, "lengths below the special tokens");
      continue;
    }
    GoldenCounts::compared(GetParam().group);
    if (row.contains("error")) {
      EXPECT_THROW(tokenizer->encode(input, options), Error);
      continue;
    }
    const Encoding encoding = tokenizer->encode(input, options);
    EXPECT_EQ(encoding.ids, row["ids"].get<Ids>());
    EXPECT_EQ(encoding.type_ids, row["type_ids"].get<Ids>());
    if (!row["overflow"].empty()) GoldenCounts::skipped(GetParam().group, "overflowing windows");
  }
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

std::string folder_name(const testing::TestParamInfo<TokenizerFolder>& info) {
  std::string name =
      info.param.path.empty() ? "none" : info.param.group + "_" + info.param.path.filename().string();
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Folders, GoldenTokenizers, testing::ValuesIn(tokenizer_folders()), folder_name);

// What no test above reads: counted, by the name of what is not built.
TEST(GoldenTokenizersTest, CountsWhatIsNotBuilt) {
  const std::pair<const char*, const char*> kinds[] = {{"stream.jsonl", "streaming"},
                                                       {"spm_stream.jsonl", "streaming"},
                                                       {"spm.jsonl", "tokenizer.model"},
                                                       {"tiktoken.jsonl", "tiktoken"},
                                                       {"gguf.jsonl", "GGUF"}};
  for (const TokenizerFolder& folder : tokenizer_folders()) {
    if (folder.path.empty()) GTEST_SKIP() << "no cases of tokenizers";
    for (const auto& [file, what] : kinds) {
      const auto rows = static_cast<int64_t>(read_rows(folder.path / file).size());
      if (rows > 0) GoldenCounts::skipped(folder.group, what, rows);
    }
    int64_t with_offsets = 0;
    for (const json& row : read_rows(folder.path / "cases.jsonl")) with_offsets += row.contains("offsets");
    if (with_offsets > 0) GoldenCounts::skipped(folder.group, "offsets", with_offsets);
  }
}

// A folder without any file that is read must say what it would need.
TEST(GoldenTokenizersTest, OtherKindsOfFilesAreRefused) {
  for (const TokenizerFolder& folder : tokenizer_folders()) {
    if (folder.path.empty() || fs::exists(folder.path / "tokenizer.json") ||
        fs::exists(folder.path / "vocab.txt") || fs::exists(folder.path / "vocab.json"))
      continue;
    try {
      Tokenizer::load(folder.path);
      ADD_FAILURE() << folder.path << " was loaded";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("expected tokenizer.json"));
    }
  }
}

}  // namespace
}  // namespace msplora
