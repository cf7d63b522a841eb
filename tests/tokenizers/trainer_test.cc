#include "msplora/tokenizers/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/tokenizers/tokenizer.h"
#include "temporary_directory.h"

namespace msplora {
namespace {
using Strings = std::vector<std::string>;

Strings lines_of(const std::filesystem::path& path) {
  std::istringstream in(read_file(path));
  Strings lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// The definition, without any of the bookkeeping: count all pairs anew for every join. Lower-case ASCII words
// only.
Strings naive_vocabulary(const std::map<std::string, int>& words, Strings vocabulary, size_t size,
                         int min_count) {
  const auto id_of = [&](const std::string& piece) {
    return std::find(vocabulary.begin(), vocabulary.end(), piece) - vocabulary.begin();
  };
  std::vector<std::pair<Strings, int>> split;
  for (const auto& [word, count] : words) {
    Strings pieces;
    for (size_t i = 0; i < word.size(); ++i) pieces.push_back((i ? "##" : "") + std::string(1, word[i]));
    split.emplace_back(pieces, count);
  }
  while (vocabulary.size() < size) {
    std::map<std::pair<std::string, std::string>, int> pairs;
    for (const auto& [pieces, count] : split) {
      for (size_t i = 0; i + 1 < pieces.size(); ++i) pairs[{pieces[i], pieces[i + 1]}] += count;
    }
    auto best = pairs.end();
    for (auto it = pairs.begin(); it != pairs.end(); ++it) {
      const auto order = [&](auto at) { return std::pair(id_of(at->first.first), id_of(at->first.second)); };
      const bool tie = best != pairs.end() && it->second == best->second;
      if (best == pairs.end() || it->second > best->second || (tie && order(it) < order(best))) best = it;
    }
    if (best == pairs.end() || best->second < min_count) break;
    const auto [left, right] = best->first;
    const std::string joined = left + right.substr(2);
    if (id_of(joined) == static_cast<std::ptrdiff_t>(vocabulary.size())) vocabulary.push_back(joined);
    for (auto& [pieces, count] : split) {
      for (size_t i = 0; i + 1 < pieces.size(); ++i) {
        if (pieces[i] != left || pieces[i + 1] != right) continue;
        pieces[i] = joined;
        pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      }
    }
  }
  return vocabulary;
}

TEST(WordPieceTrainer, EqualsTheDefinition) {
  // Few letters, so that pairs overlap (aaa) and the same piece arises in different ways.
  uint32_t state = 99;
  const auto random = [&](uint32_t below) {
    state = state * 1664525 + 1013904223;
    return state / 65536 % below;
  };
  std::map<std::string, int> words;
  std::string text;
  for (int i = 0; i < 600; ++i) {
    std::string word;
    for (uint32_t n = random(8) + 1; n > 0; --n) word += "aaabbcd"[random(7)];
    words[word]++;
    text += word + (i % 10 == 9 ? "\n" : " ");
  }
  const TemporaryDirectory directory;
  const auto file = directory.write("text", text);
  for (const size_t size : {size_t{20}, size_t{60}, size_t{400}, size_t{100000}}) {
    WordPieceTrainerOptions options;
    options.vocab_size = size;
    options.min_frequency = 3;
    train_wordpiece(options, {file}, directory.path() / "out");
    const Strings start = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a",  "b",
                           "c",     "d",     "##a",   "##b",   "##c",    "##d"};
    EXPECT_EQ(lines_of(directory.path() / "out" / "vocab.txt"), naive_vocabulary(words, start, size, 3))
        << size;
  }
}

TEST(WordPieceTrainer, WritesATokenizerThatBothFormsReadAlike) {
  const TemporaryDirectory directory;
  const auto file =
      directory.write("text", "The caf\u00e9, the CAF\u00c9 and the cafes!\nCafes and caf\u00e9s \u4e2d\n");
  WordPieceTrainerOptions options;
  options.vocab_size = 60;
  const auto out = directory.path() / "out";
  train_wordpiece(options, {file, file}, out);
  const auto tokenizer = Tokenizer::load(out);
  EXPECT_EQ(tokenizer->pad_id(), 0);
  EXPECT_EQ(tokenizer->unk_id(), 1);
  EXPECT_EQ(tokenizer->cls_id(), 2);
  EXPECT_EQ(tokenizer->sep_id(), 3);
  EXPECT_EQ(tokenizer->mask_id(), 4);
  EXPECT_TRUE(tokenizer->is_special(4));
  EXPECT_EQ(tokenizer->vocab_size(), lines_of(out / "vocab.txt").size());
  const auto encoding = tokenizer->encode({"The CAF\u00c9s!", "and [MASK]"});
  EXPECT_EQ(encoding.ids.front(), 2);
  EXPECT_EQ(tokenizer->decode(encoding.ids), "the cafes! and");
  EXPECT_EQ(tokenizer->encode({"quiz", {}}).ids, (std::vector<int32_t>{2, 1, 3}));
  std::filesystem::remove(out / "tokenizer.json");
  const auto old_form = Tokenizer::load(out);
  EXPECT_EQ(old_form->encode({"The CAF\u00c9s!", "and [MASK]"}).ids, encoding.ids);
}

TEST(WordPieceTrainer, CasedAndLimitedAlphabet) {
  const TemporaryDirectory directory;
  const Strings input = {"Abab abab abab", "zz"};
  WordPieceTrainerOptions options;
  options.lowercase = false;
  options.limit_alphabet = 2;
  size_t at = 0;
  const auto next = [&](std::string& line) {
    if (at == input.size()) return false;
    line = input[at++];
    return true;
  };
  train_wordpiece(options, next, directory.path() / "out");
  const auto tokenizer = Tokenizer::load(directory.path() / "out");
  EXPECT_TRUE(tokenizer->token_to_id("abab").has_value());
  EXPECT_FALSE(tokenizer->token_to_id("A").has_value());
  EXPECT_FALSE(tokenizer->token_to_id("z").has_value());
  EXPECT_EQ(tokenizer->encode({"Abab", {}}, {.add_special_tokens = false}).ids, (std::vector<int32_t>{1}));
}

TEST(WordPieceTrainer, RefusesWhatCannotWork) {
  const TemporaryDirectory directory;
  const auto file = directory.write("text", "some words");
  const auto empty = directory.write("empty", " \n\n");
  const auto out = directory.path() / "out";
  const auto code_of = [&](const WordPieceTrainerOptions& options, const std::filesystem::path& text) {
    try {
      train_wordpiece(options, {text}, out);
    } catch (const Error& error) {
      return std::optional(error.code());
    }
    return std::optional<ErrorCode>();
  };
  WordPieceTrainerOptions options;
  EXPECT_EQ(code_of(options, directory.path() / "absent"), ErrorCode::kIo);
  EXPECT_EQ(code_of(options, directory.path()), ErrorCode::kIo);
  EXPECT_EQ(code_of(options, empty), ErrorCode::kData);
  options.vocab_size = 6;
  EXPECT_EQ(code_of(options, file), ErrorCode::kConfig);
  options = {};
  options.special_tokens = {"[UNK]", "[CLS]"};
  EXPECT_EQ(code_of(options, file), ErrorCode::kConfig);
  EXPECT_FALSE(std::filesystem::exists(out));
  const auto blocked = directory.write("blocked", "");
  EXPECT_THROW(train_wordpiece({}, {file}, blocked), Error);
  EXPECT_EQ(read_file(blocked), "");
}

// Merges and ids of Hugging Face's BpeTrainer (tokenizers 0.22, ByteLevel(add_prefix_space=False), its whole
// alphabet, min_frequency 3) on the same lines.
TEST(BytePairTrainer, LearnsWhatHuggingFaceLearns) {
  uint32_t state = 99;
  const auto random = [&](uint32_t below) {
    state = state * 1664525 + 1013904223;
    return state / 65536 % below;
  };
  const Strings letters = {"a", "a", "a", "b", "b", "\u00e9", "d", "'s", " ", "9"};
  std::string text;
  for (int i = 0; i < 600; ++i) {
    for (uint32_t n = random(8) + 1; n > 0; --n) text += letters[random(10)];
    text += i % 10 == 9 ? "\n" : " ";
  }
  const std::string expected =
      "\u00c3 \u00a9 | \u0120 a | ' s | \u0120 b | a a | \u0120 9 | b a | \u0120 d | \u0120 \u00c3\u00a9 | "
      "\u0120 ' | a b | b b | d a | \u0120a a | \u0120 \u0120 | d b | \u00c3\u00a9 b | \u0120a b | "
      "\u00c3\u00a9 "
      "a | \u0120b a | \u0120a d | \u0120a aa | b d | 9 9 | s a | \u0120\u00c3\u00a9 a | \u0120a "
      "\u00c3\u00a9 | "
      "\u0120b \u00c3\u00a9 | b \u00c3\u00a9 | d d | d \u00c3\u00a9 | \u0120d a | \u0120\u00c3\u00a9 aa | "
      "\u0120\u00c3\u00a9 \u00c3\u00a9 | \u0120a ab | \u0120b ab | ba d | ba \u00c3\u00a9 | \u0120d b | s b "
      "| "
      "\u0120b b | \u0120b d | aa a | \u0120\u00c3\u00a9 b | \u0120b bb | aa aa | \u01209 9 | \u0120d aa | s "
      "\u00c3\u00a9 | \u0120a \u00c3\u00a9b | \u0120b bd | ba b | \u0120ad \u00c3\u00a9 | a d | a "
      "\u00c3\u00a9 | "
      "b da | d ba | d ab | \u00c3\u00a9 \u00c3\u00a9 | \u0120a bb";
  const TemporaryDirectory directory;
  const auto file = directory.write("text", text), out = directory.path() / "out";
  BytePairTrainerOptions options;
  options.vocab_size = 256 + 4 + 60;
  options.min_frequency = 3;
  train_byte_pair(options, {file}, out);
  const nlohmann::json learned = nlohmann::json::parse(read_file(out / "tokenizer.json"));
  std::string merges;
  for (const auto& merge : learned["model"]["merges"]) {
    merges += (merges.empty() ? "" : " | ") + merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  EXPECT_EQ(merges, expected);

  const auto tokenizer = Tokenizer::load(out);
  EXPECT_EQ(tokenizer->vocab_size(), 320U);
  EXPECT_EQ(tokenizer->eos_id(), 0);
  EXPECT_EQ(tokenizer->pad_id(), 3);
  const auto ids = tokenizer->encode({"baa\u00e9's 99 dab\n", {}}).ids;
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 69, 264, 260, 262, 306, 267, 270, 202}));
  EXPECT_EQ(tokenizer->decode(ids), "baa\u00e9's 99 dab\n");
}

TEST(BytePairTrainer, RefusesWhatCannotWork) {
  const TemporaryDirectory directory;
  const auto file = directory.write("text", "some words"), out = directory.path() / "out";
  BytePairTrainerOptions options;
  options.vocab_size = 259;
  options.special_tokens = {"<|endoftext|>", "<|pad|>", "<|pad|>", ""};
  options.end = "</s>";
  try {
    train_byte_pair(options, {file}, out);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    for (const char* part : {"vocab_size", "260", "\"<|pad|>\" is there twice", "empty", "\"</s>\""})
      EXPECT_THAT(std::string(error.what()), testing::HasSubstr(part));
  }
  EXPECT_FALSE(std::filesystem::exists(out));
  EXPECT_THROW(train_byte_pair({}, {directory.write("empty", "\n\n")}, out), Error);
}

std::string packed_by_gzip(const std::string& text) {
  const TemporaryDirectory directory;
  const std::string path = (directory.path() / "text.gz").string();
  const gzFile out = gzopen(path.c_str(), "wb");
  gzwrite(out, text.data(), static_cast<unsigned>(text.size()));
  gzclose(out);
  return read_file(path);
}

// As every other text of ours: unpacked, UTF-8 or refused.
TEST(Trainers, ReadTextAsEveryOtherReaderDoes) {
  const TemporaryDirectory directory;
  const std::string text = "some words and some more words\nwords again\n";
  const auto plain = directory.write("plain.txt", text),
             windows = directory.write("windows.txt",
                                       "\xEF\xBB\xBFsome words and some more words\r\nwords again\r\n");
  const auto packed = directory.write("packed.txt.gz", packed_by_gzip(text));
  const auto latin = directory.write("latin.txt", "fine\ncaf\xe9 au lait\n");
  const auto check = [&](const auto& train) {
    std::string vocabulary;
    for (const auto& file : {plain, windows, packed}) {
      const auto out = directory.path() / "out" / file.filename();
      train(file, out);
      const std::string learned = read_file(out / "tokenizer.json");
      if (vocabulary.empty()) vocabulary = learned;
      EXPECT_EQ(learned, vocabulary) << file;
    }
    EXPECT_THAT(error_text(ErrorCode::kData, [&] { train(latin, directory.path() / "no"); }),
                testing::HasSubstr("latin.txt:2: expected UTF-8, found the byte 0xE9"));
    EXPECT_FALSE(std::filesystem::exists(directory.path() / "no"));
    std::filesystem::remove_all(directory.path() / "out");
  };
  check([](const auto& file, const auto& out) { train_wordpiece({}, {file}, out); });
  check([](const auto& file, const auto& out) { train_byte_pair({}, {file}, out); });
}

}  // namespace
}  // namespace msplora
