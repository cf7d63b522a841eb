// Every line of the cases.jsonl files in the directories of MSPLORA_TOKENIZER_CASES: ids that Hugging Face's
// tokenizers gave for the tokenizer.json beside them, with the truncation and padding that the file asks for.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/tokenizers/tokenizer.h"
#include "tokenizers/temporary_directory.h"

namespace msplora {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int32_t>;

struct Case {
  std::string text;
  std::optional<std::string> pair;
  Ids ids;
  std::optional<Ids> type_ids;
  std::optional<Ids> ids_plain;  // without special tokens
  std::optional<std::string> decoded;

  TextPair input() const { return {text, pair ? std::optional<std::string_view>(*pair) : std::nullopt}; }
};

std::vector<fs::path> case_directories() {
  std::vector<fs::path> directories;
  const char* value = std::getenv("MSPLORA_TOKENIZER_CASES");
  std::stringstream list(value ? value : "");
  for (std::string path; std::getline(list, path, ':');) {
    if (!path.empty()) directories.emplace_back(path);
  }
  return directories;
}

std::vector<Case> read_cases(const fs::path& directory) {
  std::vector<Case> cases;
  std::ifstream in(directory / "cases.jsonl");
  for (std::string line; std::getline(in, line);) {
    const json row = json::parse(line);
    Case c;
    c.text = row.at("text");
    if (row.contains("pair")) c.pair = row["pair"].get<std::string>();
    c.ids = row.at("ids").get<Ids>();
    if (row.contains("type_ids")) c.type_ids = row["type_ids"].get<Ids>();
    if (row.contains("ids_plain")) c.ids_plain = row["ids_plain"].get<Ids>();
    if (row.contains("decoded")) c.decoded = row["decoded"].get<std::string>();
    cases.push_back(std::move(c));
  }
  return cases;
}

void check_cases(const Tokenizer& tokenizer, const std::vector<Case>& cases) {
  const EncodeOptions with{.use_file_settings = true};
  const EncodeOptions plain{.add_special_tokens = false, .use_file_settings = true};
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    SCOPED_TRACE("line " + std::to_string(i + 1) + ": " + c.text);
    const Encoding encoding = tokenizer.encode(c.input(), with);
    EXPECT_EQ(encoding.ids, c.ids);
    EXPECT_EQ(encoding.type_ids.size(), encoding.ids.size());
    if (c.type_ids) {
      EXPECT_EQ(encoding.type_ids, *c.type_ids);
    }
    if (c.ids_plain) {
      EXPECT_EQ(tokenizer.encode(c.input(), plain).ids, *c.ids_plain);
    }
    if (c.decoded) {
      EXPECT_EQ(tokenizer.decode(c.ids_plain.value_or(c.ids)), *c.decoded);
    }
  }
}

// What the cases hold once the file's padding (at the end in vocabulary-file form) is taken away.
Ids without_padding(Ids ids, size_t padding) {
  ids.resize(ids.size() - padding);
  return ids;
}

class TokenizerCases : public testing::TestWithParam<fs::path> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TokenizerCases);

TEST_P(TokenizerCases, TokenizerJson) {
  const auto cases = read_cases(GetParam());
  ASSERT_FALSE(cases.empty()) << GetParam() << " has no cases.jsonl";
  check_cases(*Tokenizer::load(GetParam()), cases);
  std::cout << cases.size() << " cases of " << GetParam().filename() << "\n";
}

TEST_P(TokenizerCases, BatchesOnAnyNumberOfThreadsAgree) {
  const auto cases = read_cases(GetParam());
  const auto tokenizer = Tokenizer::load(GetParam());
  std::vector<TextPair> texts;
  for (const auto& c : cases) texts.push_back(c.input());
  for (const int threads : {0, 1, 2, 5}) {
    const auto batch = tokenizer->encode_batch(texts, {.use_file_settings = true}, threads);
    ASSERT_EQ(batch.size(), cases.size());
    size_t longest = 0;
    for (const auto& encoding : batch) longest = std::max(longest, encoding.ids.size());
    for (size_t i = 0; i < cases.size(); ++i) {
      Ids ids = batch[i].ids;
      // Padding to the longest differs between a batch and a single text by its amount only.
      if (ids.size() > cases[i].ids.size() && batch[i].padding_tokens > 0) ids.resize(cases[i].ids.size());
      EXPECT_EQ(ids, cases[i].ids) << threads << " threads, line " << i + 1;
    }
  }
}

TEST_P(TokenizerCases, SavedCopyIsTheSameFile) {
  const TemporaryDirectory copy;
  Tokenizer::load(GetParam())->save(copy.path());
  EXPECT_EQ(read_file(copy.path() / "tokenizer.json"), read_file(GetParam() / "tokenizer.json"));
  check_cases(*Tokenizer::load(copy.path()), read_cases(GetParam()));
}

// The older vocabulary files store neither truncation nor padding, so the limit is given and padding is left
// out.
TEST_P(TokenizerCases, VocabularyFiles) {
  const bool wordpiece = fs::exists(GetParam() / "vocab.txt");
  if (!wordpiece && !fs::exists(GetParam() / "vocab.json"))
    GTEST_SKIP() << GetParam() << " has no vocabulary files";
  const TemporaryDirectory old;
  for (const char* name : {"vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json", "config.json"}) {
    if (fs::exists(GetParam() / name)) fs::copy_file(GetParam() / name, old.path() / name);
  }
  const auto reference = Tokenizer::load(GetParam());
  const auto tokenizer = Tokenizer::load(old.path());
  EXPECT_EQ(tokenizer->vocab_size(), reference->vocab_size());
  EXPECT_EQ(tokenizer->cls_id(), reference->cls_id());
  EXPECT_EQ(tokenizer->sep_id(), reference->sep_id());
  EXPECT_EQ(tokenizer->mask_id(), reference->mask_id());
  const json file = json::parse(read_file(GetParam() / "tokenizer.json"));
  const size_t limit = file["truncation"].is_null() ? 0 : file["truncation"]["max_length"].get<size_t>();
  const auto cases = read_cases(GetParam());
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE("line " + std::to_string(i + 1) + ": " + cases[i].text);
    const size_t padding = reference->encode(cases[i].input(), {.use_file_settings = true}).padding_tokens;
    const Encoding encoding = tokenizer->encode(cases[i].input(), {.max_length = limit});
    EXPECT_EQ(encoding.ids, without_padding(cases[i].ids, padding));
    if (cases[i].type_ids) {
      EXPECT_EQ(encoding.type_ids, without_padding(*cases[i].type_ids, padding));
    }
    if (cases[i].decoded) {
      EXPECT_EQ(tokenizer->decode(*cases[i].ids_plain), *cases[i].decoded);
    }
  }
  const TemporaryDirectory converted;
  tokenizer->save(converted.path());
  const auto again = Tokenizer::load(converted.path());
  for (const auto& c : cases)
    EXPECT_EQ(again->encode(c.input()).ids, tokenizer->encode(c.input()).ids) << c.text;
}

INSTANTIATE_TEST_SUITE_P(Directories, TokenizerCases, testing::ValuesIn(case_directories()),
                         [](const auto& info) {
                           std::string name = info.param.filename().string();
                           if (name.empty()) name = info.param.parent_path().filename().string();
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name + "_" + std::to_string(info.index);
                         });

TEST(TokenizerCasesTest, AreGiven) {
  if (case_directories().empty()) GTEST_SKIP() << "MSPLORA_TOKENIZER_CASES is not set";
  for (const auto& directory : case_directories()) {
    EXPECT_TRUE(fs::exists(directory / "tokenizer.json")) << directory;
    EXPECT_TRUE(fs::exists(directory / "cases.jsonl")) << directory;
  }
}

}  // namespace
}  // namespace msplora
