#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/stopwatch.h"
#include "tokenizers/json_view.h"
#include "tokenizers/normalizers.h"
#include "tokenizers/pre_tokenizers.h"
#include "tokenizers/regex.h"
#include "tokenizers/small_tokenizer.h"
#include "tokenizers/unicode.h"

namespace msplora {
namespace {
using nlohmann::json;
using testing::ElementsAre;
using Strings = std::vector<std::string>;

// The pieces that a pre-tokenizer makes of a text.
Strings split(const json& component, const std::string& text) {
  const auto pre_tokenizer = detail::make_pre_tokenizer(detail::JsonView(component, "test"));
  detail::PieceBuffer buffer;
  buffer.text = text;
  buffer.pieces = {{0, text.size()}};
  pre_tokenizer->apply(buffer);
  Strings pieces;
  for (const auto& piece : buffer.pieces) pieces.emplace_back(buffer.view(piece));
  return pieces;
}

std::string normalized(const json& component, std::string text) {
  const auto normalizer = detail::make_normalizer(detail::JsonView(component, "test"));
  std::string spare;
  normalizer->apply(text, spare);
  return text;
}

TEST(Normalizers, EachType) {
  EXPECT_EQ(normalized({{"type", "Lowercase"}}, "\u00c9A \u0391\u03a3 \u0130"),
            "\u00e9a \u03b1\u03c3 i\u0307");
  EXPECT_EQ(normalized({{"type", "NFC"}}, "e\u0301"), "\u00e9");
  EXPECT_EQ(normalized({{"type", "NFD"}}, "\u00e9"), "e\u0301");
  EXPECT_EQ(normalized({{"type", "NFKC"}}, "\ufb01 \u00bd"), "fi 1\u20442");
  EXPECT_EQ(normalized({{"type", "NFKD"}}, "\u00e9\ufb01"), "e\u0301fi");
  EXPECT_EQ(normalized({{"type", "StripAccents"}}, "e\u0301a"), "ea");
  EXPECT_EQ(normalized({{"type", "Strip"}, {"strip_left", true}, {"strip_right", false}}, " \u2003a "), "a ");
  EXPECT_EQ(normalized({{"type", "Strip"}}, "\u3000 a\u3000"), "a");
  EXPECT_EQ(normalized({{"type", "Strip"}}, " \u2003 "), "");
  EXPECT_EQ(normalized({{"type", "Prepend"}, {"prepend", "\u2581"}}, "a"), "\u2581a");
  EXPECT_EQ(normalized({{"type", "Prepend"}, {"prepend", "\u2581"}}, ""), "");
  EXPECT_EQ(normalized({{"type", "Replace"}, {"pattern", {{"String", "``"}}}, {"content", "\""}}, "a``b``"),
            "a\"b\"");
  EXPECT_EQ(normalized({{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}}, "a   b c"),
            "a b c");
  EXPECT_EQ(normalized({{"type", "Nmt"}}, "a\u200bb\x01"), "a b");
  EXPECT_EQ(normalized({{"type", "ByteLevel"}}, "a \u00e9"), "a\u0120\u00c3\u00a9");
  const json parts = {{{"type", "NFKC"}}, {{"type", "Lowercase"}}};
  EXPECT_EQ(normalized({{"type", "Sequence"}, {"normalizers", parts}}, "\ufb01A"), "fia");
}

TEST(Normalizers, BertOptions) {
  const auto bert = [](bool clean, bool chinese, const json& accents, bool lower) {
    return json{{"type", "BertNormalizer"},
                {"clean_text", clean},
                {"handle_chinese_chars", chinese},
                {"strip_accents", accents},
                {"lowercase", lower}};
  };
  EXPECT_EQ(normalized(bert(true, true, nullptr, true), "H\u00e9\tLLO\x7f\u4e2d\ufffd"), "he llo \u4e2d ");
  EXPECT_EQ(normalized(bert(true, true, false, true), "\u00c9A"), "\u00e9a");
  EXPECT_EQ(normalized(bert(true, true, nullptr, false), "\u00c9A"), "\u00c9A");
  EXPECT_EQ(normalized(bert(true, false, nullptr, false), "\u4e2d"), "\u4e2d");
  EXPECT_EQ(normalized(bert(false, false, nullptr, false), std::string("a\0\tb", 4)),
            std::string("a\0\tb", 4));
}

// A way that takes the square of their number would not end: 10^6 marks between two starters.
TEST(Normalizers, LongRunsOfMarksTakeLinearTime) {
  constexpr size_t kPairs = 500000;
  std::string text = "a", sorted = "a";
  for (size_t i = 0; i < kPairs; ++i) text += "\u0301\u0316";  // classes 230 and 220
  for (const char* mark : {"\u0316", "\u0301"}) {
    for (size_t i = 0; i < kPairs; ++i) sorted += mark;
  }
  EXPECT_TRUE(normalized({{"type", "NFD"}}, text) == sorted);
  // The first acute joins the letter.
  EXPECT_TRUE(normalized({{"type", "NFC"}}, text) == "\u00e1" + sorted.substr(1, sorted.size() - 3));
  EXPECT_EQ(normalized({{"type", "BertNormalizer"}}, text), "a");
}

TEST(Normalizers, CanonicalOrderIsStable) {
  EXPECT_EQ(normalized({{"type", "NFD"}}, "q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(normalized({{"type", "NFC"}}, "\u1e0b\u0323"), "\u1e0d\u0307");
  EXPECT_EQ(normalized({{"type", "NFD"}}, "a\u0301\u0300"), "a\u0301\u0300");
  EXPECT_EQ(normalized({{"type", "NFC"}}, "\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(normalized({{"type", "NFKD"}}, "\ufdfa").size(), 33u);
}

// Empty matches are delimiters, but none directly behind another match (tokenizers 0.23.3).
TEST(Patterns, EmptyMatches) {
  const auto with = [](const char* behavior, const char* pattern) {
    return json{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}};
  };
  EXPECT_THAT(split(with("Contiguous", "x*"), "abxxc"), ElementsAre("a", "b", "xx", "c"));
  EXPECT_EQ(normalized({{"type", "Replace"}, {"pattern", {{"Regex", "x*"}}}, {"content", "-"}}, "axxb"),
            "-a-b-");
  EXPECT_EQ(normalized({{"type", "Replace"}, {"pattern", {{"Regex", "^"}}}, {"content", "-"}}, ""), "");
}

// tokenizers 0.23.3: what begins behind text that the normaliser took away is not first.
TEST(PreTokenizers, MetaspaceFirstAsksWhereTheInputBegan) {
  json content = {{"model", word_model({"\u2581a", "a", "\u2581b"})}};
  content["normalizer"] = {{"type", "Nmt"}};
  content["pre_tokenizer"] = {{"type", "Metaspace"}, {"prepend_scheme", "first"}, {"replacement", "\u2581"}};
  const auto tokenizer = tokenizer_from(content);
  EXPECT_EQ(tokens_of(*tokenizer, "a b"), (std::vector<std::string>{"\u2581a", "\u2581b"}));
  EXPECT_EQ(tokens_of(*tokenizer, "\u0001a b"), (std::vector<std::string>{"a", "\u2581b"}));
}

TEST(PreTokenizers, EachType) {
  EXPECT_THAT(split({{"type", "BertPreTokenizer"}}, "don't stop, \u201cnow\u201d"),
              ElementsAre("don", "'", "t", "stop", ",", "\u201c", "now", "\u201d"));
  EXPECT_THAT(split({{"type", "Whitespace"}}, "don't stop_it... \u00e9t\u00e9"),
              ElementsAre("don", "'", "t", "stop_it", "...", "\u00e9t\u00e9"));
  EXPECT_THAT(split({{"type", "WhitespaceSplit"}}, " a,b\u2003c \n"), ElementsAre("a,b", "c"));
  EXPECT_THAT(split({{"type", "Digits"}, {"individual_digits", false}}, "ab12c3"),
              ElementsAre("ab", "12", "c", "3"));
  EXPECT_THAT(split({{"type", "Digits"}, {"individual_digits", true}}, "ab12"), ElementsAre("ab", "1", "2"));
  EXPECT_THAT(split({{"type", "Punctuation"}}, "a,b!!"), ElementsAre("a", ",", "b", "!", "!"));
  EXPECT_THAT(split({{"type", "Punctuation"}, {"behavior", "Contiguous"}}, "a,b!!"),
              ElementsAre("a", ",", "b", "!!"));
  EXPECT_THAT(split({{"type", "CharDelimiterSplit"}, {"delimiter", "-"}}, "a-b--c"),
              ElementsAre("a", "b", "c"));
  const json parts = {{{"type", "WhitespaceSplit"}}, {{"type", "Punctuation"}}};
  EXPECT_THAT(split({{"type", "Sequence"}, {"pretokenizers", parts}}, "a b."), ElementsAre("a", "b", "."));
}

TEST(PreTokenizers, SplitBehaviors) {
  const auto with = [](const char* behavior) {
    return json{{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", behavior}, {"invert", false}};
  };
  // The example of Hugging Face's documentation.
  const std::string text = "the-final--countdown";
  EXPECT_THAT(split(with("Removed"), text), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(split(with("Isolated"), text), ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(split(with("MergedWithPrevious"), text), ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(split(with("MergedWithNext"), text), ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(split(with("Contiguous"), text), ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(
      split({{"type", "Split"}, {"pattern", {{"Regex", "\\w+"}}}, {"behavior", "Removed"}, {"invert", true}},
            "a, \u00e9!"),
      ElementsAre("a", "\u00e9"));
  // An empty match separates what lies around it.
  EXPECT_THAT(
      split({{"type", "Split"}, {"pattern", {{"Regex", "x*"}}}, {"behavior", "Isolated"}}, "a\u00e9xx"),
      ElementsAre("a", "\u00e9", "xx"));
}

TEST(PreTokenizers, Metaspace) {
  const json always = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}};
  EXPECT_THAT(split(always, "a  b"), ElementsAre("\u2581"
                                                 "a",
                                                 "\u2581",
                                                 "\u2581"
                                                 "b"));
  EXPECT_THAT(split(always, " a"), ElementsAre("\u2581"
                                               "a"));
  const json never = {
      {"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "never"}, {"split", false}};
  EXPECT_THAT(split(never, "a b"), ElementsAre("a_b"));
  const json legacy = {{"type", "Metaspace"}, {"replacement", "_"}, {"add_prefix_space", false}};
  EXPECT_THAT(split(legacy, "a b"), ElementsAre("a", "_b"));
}

TEST(PreTokenizers, ByteLevelPrefixSpace) {
  const json with = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  EXPECT_THAT(split(with, "Hi you"), ElementsAre("\u0120Hi", "\u0120you"));
  EXPECT_THAT(split(with, " Hi"), ElementsAre("\u0120Hi"));
  const json whole = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  EXPECT_THAT(split(whole, "Hi you"), ElementsAre("Hi\u0120you"));
}

// The hand-written splitter against the pattern itself, as PCRE2 reads it.
TEST(PreTokenizers, Gpt2SplitEqualsItsPattern) {
  const json pattern = {
      {"Regex", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"}};
  const detail::Pattern regex{detail::JsonView(pattern, "test")};
  const Strings alphabet = {" ",      " ",      "'",  "s",      "t",      "re",        "ll",
                            "d",      "A",      "7",  "!",      "\n",     "\u00a0",    "\u00e9",
                            "\u0301", "\u3000", "\t", "\u00bd", "\u4e2d", "\U0001f600"};
  uint32_t state = 12345;
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    for (int i = 0; i < round % 13; ++i) {
      state = state * 1664525 + 1013904223;
      text += alphabet[state / 65536 % alphabet.size()];
    }
    std::vector<detail::Piece> pieces;
    detail::split_gpt2(text, pieces, 0);
    Strings expected, found;
    regex.for_each(text,
                   [&](size_t begin, size_t end) { expected.push_back(text.substr(begin, end - begin)); });
    for (const auto& piece : pieces) found.push_back(text.substr(piece.begin, piece.end - piece.begin));
    ASSERT_EQ(found, expected) << "text \"" << text << "\"";
  }
}

TEST(PreTokenizers, LongTextThroughABacktrackingPattern) {
  const json component = {
      {"type", "Split"}, {"pattern", {{"Regex", "\\A(?:a|b)*c|\\s+"}}}, {"behavior", "Removed"}};
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "ab";
  try {
    EXPECT_FALSE(split(component, text).empty());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kData);  // giving up is allowed, crashing is not
  }
}

json bpe_model(const json& vocabulary, const json& merges) {
  return {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}};
}

TEST(BpeModel, LowestRankFirstThenLeftmost) {
  const json vocabulary = {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"bc", 4}, {"aa", 5}, {"aab", 6}};
  const auto tokenizer = tokenizer_from({{"model", bpe_model(vocabulary, {"b c", "a b", "a a", "aa b"})}});
  EXPECT_THAT(tokens_of(*tokenizer, "abc"), ElementsAre("a", "bc"));
  EXPECT_THAT(tokens_of(*tokenizer, "aab"), ElementsAre("a", "ab"));
  EXPECT_THAT(tokens_of(*tokenizer, "aaa"), ElementsAre("aa", "a"));
  // Without an unknown token, unknown characters are dropped before merging.
  EXPECT_THAT(tokens_of(*tokenizer, "axc"), ElementsAre("a", "c"));
  EXPECT_THAT(tokens_of(*tokenizer, "axb"), ElementsAre("ab"));
}

// Long words take another path; pieces far apart must not change each other.
TEST(BpeModel, LongWordsMergeAlike) {
  const json vocabulary = {{"a", 0},  {"b", 1},  {"c", 2},  {"|", 3},
                           {"ab", 4}, {"bc", 5}, {"aa", 6}, {"aaab", 7}};
  const auto tokenizer = tokenizer_from({{"model", bpe_model(vocabulary, {"b c", "a b", "a a", "aa ab"})}});
  uint32_t state = 7;
  std::string text;
  std::vector<int32_t> expected;
  for (int part = 0; part < 50; ++part) {
    std::string word;
    for (int i = 0; i < 9; ++i) {
      state = state * 1664525 + 1013904223;
      word += "aabc"[state / 65536 % 4];
    }
    word += "|";
    text += word;
    const auto ids = tokenizer->encode({word, {}}).ids;
    expected.insert(expected.end(), ids.begin(), ids.end());
  }
  EXPECT_EQ(tokenizer->encode({text, {}}).ids, expected);
}

TEST(BpeModel, UnknownCharacters) {
  json model = bpe_model({{"<unk>", 0}, {"a", 1}, {"<0xC3>", 2}, {"<0xA9>", 3}}, json::array());
  model["unk_token"] = "<unk>";
  EXPECT_THAT(tokens_of(*tokenizer_from({{"model", model}}), "xya"), ElementsAre("<unk>", "<unk>", "a"));
  model["fuse_unk"] = true;
  EXPECT_THAT(tokens_of(*tokenizer_from({{"model", model}}), "xyax"), ElementsAre("<unk>", "a", "<unk>"));
  model["byte_fallback"] = true;
  EXPECT_THAT(tokens_of(*tokenizer_from({{"model", model}}),
                        "\u00e9"
                        "a\u00ea"),
              ElementsAre("<0xC3>", "<0xA9>", "a", "<unk>"));
}

TEST(BpeModel, PrefixSuffixAndIgnoredMerges) {
  json model = bpe_model({{"a", 0}, {"##b", 1}, {"ab", 2}, {"##c", 3}, {"abc", 4}}, {"a ##b", "ab ##c"});
  model["continuing_subword_prefix"] = "##";
  EXPECT_THAT(tokens_of(*tokenizer_from({{"model", model}}), "abc"), ElementsAre("abc"));
  model = bpe_model({{"a", 0}, {"b", 1}, {"b</w>", 2}, {"ab</w>", 3}},
                    json::array({json::array({"a", "b</w>"})}));
  model["end_of_word_suffix"] = "</w>";
  EXPECT_THAT(tokens_of(*tokenizer_from({{"model", model}}), "ab"), ElementsAre("ab</w>"));
  EXPECT_THAT(tokens_of(*tokenizer_from({{"model", model}}), "bab"), ElementsAre("b", "ab</w>"));
  model = bpe_model({{"a", 0}, {"b", 1}, {"aba", 2}}, json::array());
  EXPECT_THAT(tokens_of(*tokenizer_from({{"model", model}}), "aba"), ElementsAre("a", "b", "a"));
  model["ignore_merges"] = true;
  EXPECT_THAT(tokens_of(*tokenizer_from({{"model", model}}), "aba"), ElementsAre("aba"));
}

json added(int id, const char* content, const json& flags = json::object()) {
  json token = {{"id", id}, {"content", content}, {"special", false}, {"normalized", false}};
  token.update(flags);
  return token;
}

TEST(AddedTokens, StrippingAndWordBoundaries) {
  json content = {{"model", word_model({"a", "b"})}, {"pre_tokenizer", {{"type", "WhitespaceSplit"}}}};
  content["added_tokens"] = {added(10, "<m>", {{"lstrip", true}}), added(11, "<mm>"),
                             added(12, "cat", {{"single_word", true}})};
  const auto tokenizer = tokenizer_from(content);
  EXPECT_EQ(tokenizer->vocab_size(), 13U);
  EXPECT_THAT(tokens_of(*tokenizer, "a <m>b"), ElementsAre("a", "<m>", "b"));
  EXPECT_THAT(tokens_of(*tokenizer, "a<mm>b"), ElementsAre("a", "<mm>", "b"));
  EXPECT_THAT(tokens_of(*tokenizer, "a cat b"), ElementsAre("a", "cat", "b"));
  EXPECT_THAT(tokens_of(*tokenizer, "a cats"), ElementsAre("a", "[UNK]"));
  EXPECT_THAT(tokens_of(*tokenizer, "cat"), ElementsAre("cat"));
  EXPECT_EQ(tokenizer->id_to_token(5), "");
}

TEST(AddedTokens, NormalizedOnesAreFoundInNormalizedText) {
  json content = {{"model", word_model({"a"})}, {"normalizer", {{"type", "Lowercase"}}}};
  content["added_tokens"] = {added(5, "Hey", {{"normalized", true}}), added(6, "You")};
  const auto tokenizer = tokenizer_from(content);
  EXPECT_EQ(tokenizer->encode({"HEYaYou", {}}).ids, (std::vector<int32_t>{5, 1, 6}));
  EXPECT_EQ(tokenizer->encode({"you", {}}).ids, (std::vector<int32_t>{0}));
}

TEST(PostProcessors, RobertaAndBertLayouts) {
  json content = {{"model", word_model({"a", "b", "<s>", "</s>"})}};
  content["post_processor"] = {{"type", "RobertaProcessing"}, {"cls", {"<s>", 3}}, {"sep", {"</s>", 4}}};
  auto encoding = tokenizer_from(content)->encode({"a", "b"});
  EXPECT_THAT(encoding.ids, ElementsAre(3, 1, 4, 4, 2, 4));
  EXPECT_THAT(encoding.type_ids, ElementsAre(0, 0, 0, 0, 0, 0));
  content["post_processor"]["type"] = "BertProcessing";
  encoding = tokenizer_from(content)->encode({"a", "b"});
  EXPECT_THAT(encoding.ids, ElementsAre(3, 1, 4, 2, 4));
  EXPECT_THAT(encoding.type_ids, ElementsAre(0, 0, 0, 1, 1));
  EXPECT_THAT(tokenizer_from(content)->encode({"a", "b"}, {.add_special_tokens = false}).ids,
              ElementsAre(1, 2));
  const json roberta = {{"type", "RobertaProcessing"}, {"cls", {"<s>", 3}}, {"sep", {"</s>", 4}}};
  content["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, roberta}}};
  EXPECT_THAT(tokenizer_from(content)->encode({"a", {}}).ids, ElementsAre(3, 1, 4));
}

std::string decoded(const json& decoder, const Strings& words) {
  json vocabulary = {{"[UNK]", 0}};
  std::vector<int32_t> ids;
  for (const auto& word : words) {
    if (!vocabulary.contains(word)) vocabulary[word] = vocabulary.size();
    ids.push_back(vocabulary[word]);
  }
  const json model = {{"type", "WordPiece"}, {"vocab", vocabulary}};
  return tokenizer_from({{"model", model}, {"decoder", decoder}})->decode(ids);
}

TEST(Decoders, EachType) {
  EXPECT_EQ(decoded(nullptr, {"a", "b"}), "a b");
  EXPECT_EQ(
      decoded({{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}, {"hel", "##lo", ",", "n't"}),
      "hello,n't");
  EXPECT_EQ(decoded({{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", false}}, {"a", ","}), "a ,");
  EXPECT_EQ(decoded({{"type", "ByteLevel"}}, {"\u0120a", "\u00c3", "\u00a9"}), " a\u00e9");
  EXPECT_EQ(decoded({{"type", "ByteLevel"}}, {"a", "\u00c3"}), "a\ufffd");
  EXPECT_EQ(decoded({{"type", "BPEDecoder"}, {"suffix", "</w>"}}, {"a", "b</w>", "c</w>"}), "ab c");
  EXPECT_EQ(
      decoded({{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "always"}}, {"_a", "_b"}),
      "a b");
  // Llama 2's decoder.
  const json parts = {{{"type", "Replace"}, {"pattern", {{"String", "_"}}}, {"content", " "}},
                      {{"type", "ByteFallback"}},
                      {{"type", "Fuse"}},
                      {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}};
  const json llama = {{"type", "Sequence"}, {"decoders", parts}};
  EXPECT_EQ(decoded(llama, {"_a", "<0xC3>", "<0xA9>", "_b"}), "a\u00e9 b");
  EXPECT_EQ(decoded(llama, {"_a", "<0xC3>", "b"}), "a\ufffdb");
}

TEST(Truncation, LongestFirstAsHuggingFace) {
  json content = {{"model", word_model({"a", "b"})}, {"pre_tokenizer", {{"type", "WhitespaceSplit"}}}};
  const auto tokenizer = tokenizer_from(content);
  const auto lengths = [&](const std::string& a, const std::string& b, size_t limit) {
    const auto encoding = tokenizer->encode({a, b}, {.max_length = limit});
    const auto ones = static_cast<size_t>(std::count(encoding.type_ids.begin(), encoding.type_ids.end(), 1));
    EXPECT_EQ(encoding.dropped_tokens + encoding.ids.size(), (a.size() + 1) / 2 + (b.size() + 1) / 2);
    return std::pair{encoding.ids.size() - ones, ones};
  };
  EXPECT_EQ(lengths("a a a a a a", "b b", 5), (std::pair<size_t, size_t>{3, 2}));
  EXPECT_EQ(lengths("a a", "b b b b b b", 5), (std::pair<size_t, size_t>{2, 3}));
  EXPECT_EQ(lengths("a a a a a", "b b b b b", 5), (std::pair<size_t, size_t>{2, 3}));
  EXPECT_EQ(lengths("a a a a a a", "b b b b b", 5), (std::pair<size_t, size_t>{3, 2}));
  EXPECT_EQ(lengths("a a", "b b", 5), (std::pair<size_t, size_t>{2, 2}));
}

TEST(Truncation, FileSettings) {
  json content = {{"model", word_model({"a", "b", "c"})}, {"pre_tokenizer", {{"type", "WhitespaceSplit"}}}};
  content["truncation"] = {
      {"max_length", 2}, {"strategy", "LongestFirst"}, {"stride", 0}, {"direction", "Left"}};
  content["padding"] = {{"strategy", "BatchLongest"}, {"direction", "Left"},
                        {"pad_to_multiple_of", 4},    {"pad_id", 9},
                        {"pad_type_id", 7},           {"pad_token", "[PAD]"}};
  const auto tokenizer = tokenizer_from(content);
  const auto encoding = tokenizer->encode({"a b c", {}}, {.use_file_settings = true});
  EXPECT_THAT(encoding.ids, ElementsAre(9, 9, 2, 3));
  EXPECT_THAT(encoding.type_ids, ElementsAre(7, 7, 0, 0));
  EXPECT_EQ(encoding.padding_tokens, 2U);
  EXPECT_EQ(encoding.dropped_tokens, 1U);
  EXPECT_THAT(tokenizer->encode({"a b c", {}}).ids, ElementsAre(1, 2, 3));
  content["truncation"]["strategy"] = "OnlySecond";
  EXPECT_THROW(tokenizer_from(content)->encode({"a b c", "b"}, {.use_file_settings = true}), Error);
}

TEST(Unicode, DamagedTextBecomesReplacementCharacters) {
  const auto repaired = [](std::string_view text) {
    std::string buffer;
    return std::string(detail::valid_utf8(text, buffer));
  };
  EXPECT_EQ(repaired("ok \u00e9 \U0001f600"), "ok \u00e9 \U0001f600");
  EXPECT_EQ(repaired("a\x80z"), "a\ufffdz");
  EXPECT_EQ(repaired("a\xe4\xbd"), "a\ufffd");                          // cut short: one part
  EXPECT_EQ(repaired("\xf0\x9f\x98!"), "\ufffd!");                      // cut short before ASCII
  EXPECT_EQ(repaired("\xed\xa0\x80"), "\ufffd\ufffd\ufffd");            // a surrogate
  EXPECT_EQ(repaired("\xc0\xaf"), "\ufffd\ufffd");                      // overlong
  EXPECT_EQ(repaired("\xf4\x90\x80\x80"), "\ufffd\ufffd\ufffd\ufffd");  // above U+10FFFF
}

// Counting characters anew for every window would take minutes.
TEST(Windows, OfALongLineTakeTimeByItsLength) {
  nlohmann::json content = {{"model", word_model({"w\u00f6rd", "b"})},
                            {"pre_tokenizer", {{"type", "Whitespace"}}}};
  std::string text;
  constexpr size_t kBytes = size_t{2} << 20;
  while (text.size() < kBytes) text += "w\u00f6rd b ";
  const auto tokenizer = tokenizer_from(content);
  EncodeOptions options;
  options.max_length = 32;
  options.stride = 4;
  for (const OffsetUnit unit : {OffsetUnit::kBytes, OffsetUnit::kCharacters}) {
    options.offsets = unit;
    const Stopwatch watch;
    const std::vector<Encoding> windows = tokenizer->encode_windows({text, {}}, options);
    EXPECT_LT(watch.cpu_seconds(), 30.0);
    ASSERT_GT(windows.size(), 1000u);
    const size_t per_pair = unit == OffsetUnit::kBytes ? 8 : 7;  // of "w\u00f6rd b "
    EXPECT_EQ(windows[1].offsets.front().begin, 14 * per_pair);
    EXPECT_EQ(windows[1].offsets[1].begin, 14 * per_pair + (unit == OffsetUnit::kBytes ? 6 : 5));
  }
}

}  // namespace
}  // namespace msplora
