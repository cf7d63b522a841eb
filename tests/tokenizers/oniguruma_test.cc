#include "tokenizers/oniguruma.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/pcre.h"
#include "msplora/core/error.h"
#include "tokenizers/json_view.h"
#include "tokenizers/regex.h"
#include "tokenizers/young_characters.h"

namespace msplora {
namespace {

struct PatternCase {
  const char* pattern;
  const char* text;
  std::vector<std::string> pieces;
};

// The text cut at the matches' borders, as Split does with "Isolated".
std::vector<std::string> isolated(const std::string& pattern, const std::string& text) {
  const nlohmann::json node = {{"Regex", pattern}};
  const detail::Pattern compiled(detail::JsonView(node, "test"));
  std::vector<std::string> pieces;
  size_t done = 0;
  const auto add = [&](size_t begin, size_t end) {
    if (begin < end) pieces.push_back(text.substr(begin, end - begin));
  };
  compiled.for_each(text, [&](size_t begin, size_t end) {
    add(done, begin);
    add(begin, end);
    done = end;
  });
  add(done, text.size());
  return pieces;
}

// Pieces that tokenizers 0.23.3 (Oniguruma) gave. Each pattern means something else to PCRE2, is refused
// there, or passes through a part of the translation.
TEST(Oniguruma, MatchesWhatOnigurumaMatches) {
  const std::vector<PatternCase> cases = {
      {"[a-z&&[^aeiou]]+", "hello abba", {"h", "e", "ll", "o a", "bb", "a"}},
      {"[\\p{L}&&[^\\p{Han}]]+",
       "ab\u4e2d\u6587cd\u3001\u00e9",
       {"ab", "\u4e2d\u6587", "cd", "\u3001", "\u00e9"}},
      {"[a[0-9]c]+", "ab1c2d", {"a", "b", "1c2", "d"}},
      {"[^a[0-9]]+", "ab1c2d", {"a", "b", "1", "c", "2", "d"}},
      {"[a-f&&b-d[x]]", "abxd", {"a", "b", "x", "d"}},
      {"[^a-d&&c-f]+", "abcdefg", {"ab", "cd", "efg"}},
      {"^-", "-a\n-b\n", {"-", "a\n", "-", "b\n"}},
      {"a$", "a\naa\n", {"a", "\na", "a", "\n"}},
      {"^", "a\nb\n", {"a\n", "b\n"}},
      {"(?m:a.b)", "a\nb a.b", {"a\nb", " ", "a.b"}},
      {"a.b", "a\nb a.b", {"a\nb ", "a.b"}},
      {"\\h+", "xyzBEEFg 12", {"xyz", "BEEF", "g ", "12"}},
      {"\\H", "a\u00e91", {"a", "\u00e9", "1"}},
      {"a{,2}b", "aaab b", {"a", "aab", " ", "b"}},
      {"a{2}?", "aaa", {"aa", "a"}},
      {"(?:a{1,2}+b)", "aab aaab", {"aab", " ", "aaab"}},
      {"a{,}", "a{,}", {"a{,}"}},
      {"\\w+", "e\u0301\u2460\u24d0\u00b2_x", {"e\u0301", "\u2460", "\u24d0\u00b2_x"}},
      {"[\\w]+", "a\u00b2b", {"a", "\u00b2", "b"}},
      {"[^\\w]", "a\u0301-\u00b2", {"a\u0301", "-", "\u00b2"}},
      {"\\bab", "ab\u0301 ab\u00b2ab", {"ab", "\u0301 ", "ab", "\u00b2ab"}},
      {"\\s", "a\u180eb\u00a0c\u2028", {"a\u180eb", "\u00a0", "c", "\u2028"}},
      {"\\S+", "a\u180eb c", {"a\u180eb", " ", "c"}},
      {"\\Q.\\E", "QaE", {"QaE"}},
      {"\\p{Han}+", "\u3005\u3001\u4e2d\u6587\u3002", {"\u3005", "\u3001", "\u4e2d\u6587", "\u3002"}},
      {"\\p{^L}+", "a1-b", {"a", "1-", "b"}},
      {"\\p{Letter}+", "ab1", {"ab", "1"}},
      {"[[:punct:]]+", "a+b$c.", {"a", "+", "b", "$", "c", "."}},
      {"[[:^alpha:]]+", "a1b", {"a", "1", "b"}},
      {"a(?i)b|c", "aB aC B C", {"aB", " ", "aC", " B C"}},
      {"(?i:'k)", "'K 'k '\u212a", {"'K", " ", "'k", " ", "'\u212a"}},
      {"a++b|a", "aab aaa", {"aab", " ", "a", "a", "a"}},
      {"(?x: a b # c\n) ", "ab ab", {"ab ", "ab"}},
      {"(?<n>a)|(?#no)b", "abc", {"a", "b", "c"}},
      {"\\R", "a\r\nb\n\nc", {"a", "\r\n", "b", "\n", "\n", "c"}},
      {"\\N+", "a\r\nb", {"a\r", "\n", "b"}},
      {"(?<=a)b(?!c)", "abc ab", {"abc a", "b"}},
      {"[a-c-e]+", "a-c-e-d", {"a-c-e-", "d"}},
      {"x*", "axxb", {"a", "xx", "b"}},
      {"\\u0061\\x62\\x{e9}", "ab\u00e9", {"ab\u00e9"}},
      {"\\A.|.\\z", "a\nb\n", {"a", "\nb\n"}},
      {"\\O", "\n", {"\n"}},
      {"[\\p{P}\\p{S}&&[^\\-]]+", "+-,.", {"+", "-", ",."}},
  };
  for (const PatternCase& c : cases) EXPECT_EQ(isolated(c.pattern, c.text), c.pieces) << c.pattern;
}

// Pieces that tokenizers 0.23.3 gave, whose tables are those of Unicode 16: every kind of class on characters
// that PCRE2's own may not know.
TEST(Oniguruma, ClassesHoldTheCharactersOfUnicode16) {
  const std::vector<PatternCase> cases = {
      {"\\p{L}+",
       "a\U00031350\U0002ebf0b \U00010d4a1\u1c89",
       {"a\U00031350\U0002ebf0b", " ", "\U00010d4a", "1", "\u1c89"}},
      {"\\p{Lo}", "\u4e2d\U000323af\U0002b739x", {"\u4e2d", "\U000323af", "\U0002b739", "x"}},
      {"[^\\p{L}]+", "1\U00031350-\U00011f02.", {"1", "\U00031350", "-", "\U00011f02", "."}},
      {"\\p{Lu}", "A\u1c89\ua7dcb", {"A", "\u1c89", "\ua7dc", "b"}},
      {"\\p{Ll}+", "\u1c8a\ua7cdA", {"\u1c8a\ua7cd", "A"}},
      {"\\p{N}+", "1\U0001ccf5\U0001d2c0a", {"1\U0001ccf5\U0001d2c0", "a"}},
      {"\\d", "\U0001e4f3x", {"\U0001e4f3", "x"}},
      {"\\w+", "\U00011f50\U00010d69-\U00016d40", {"\U00011f50\U00010d69", "-", "\U00016d40"}},
      {"\\p{M}", "a\U00010efd\u0897\U0001171e", {"a", "\U00010efd", "\u0897", "\U0001171e"}},
      {"\\p{Mn}", "\U0001171e\U00010efd", {"\U0001171e", "\U00010efd"}},
      {"\\p{Mc}", "\U0001171e\u0cf3", {"\U0001171e", "\u0cf3"}},
      {"\\p{Cn}", "\U00031350\U000323b0", {"\U00031350", "\U000323b0"}},
      {"\\p{C}+", "\U00031350\U000323b0\U00013439\n", {"\U00031350", "\U000323b0\U00013439\n"}},
      {"\\p{S}", "\u31ef\U0001fae9+", {"\u31ef", "\U0001fae9", "+"}},
      {"[[:punct:]]", "\u1b4e\U00010d6e!", {"\u1b4e", "\U00010d6e", "!"}},
      {"[[:alpha:]]+", "\u0363\U00031350 b", {"\u0363\U00031350", " ", "b"}},
      {"[[:graph:]]+", " \U00031350\U000323b0", {" ", "\U00031350", "\U000323b0"}},
      {"\\p{Han}+", "\u4e2d\U0002ee5d\U00013460", {"\u4e2d\U0002ee5d", "\U00013460"}},
      {"\\p{Latin}+", "a\U0001df25\u1c8a", {"a\U0001df25", "\u1c8a"}},
      {"\\p{Emoji}", "\U0001fae9\U0001f600z", {"\U0001fae9", "\U0001f600", "z"}},
      {"\\p{Lowercase}+", "\u10fc\U0001e030A", {"\u10fc\U0001e030", "A"}},
      {"[\\p{Han}&&\\p{Lo}]+", "\u3005\u4e2d\U00031350", {"\u3005", "\u4e2d\U00031350"}},
  };
  for (const PatternCase& c : cases) EXPECT_EQ(isolated(c.pattern, c.text), c.pieces) << c.pattern;
}

TEST(Oniguruma, YoungCharactersAreFoundInATextAndUsualTextsHaveNone) {
  EXPECT_FALSE(detail::has_young_characters(""));
  EXPECT_FALSE(
      detail::has_young_characters("plain, \u00fcber \u4e2d\u6587 \u3042\ud55c\u0e01 \U0001f600 \U00020000"));
  for (const char* young :
       {"\u0363", "a\u0897", "\u4e2d\u31ef", "\ua7cb", "x\U00010d40", "\U00031350", "\U000323af."})
    EXPECT_TRUE(detail::has_young_characters(young)) << young;
  for (const char* neighbour : {"\u0362", "\u0370", "\ua7d0", "\U0003134f", "\U000323b0"})
    EXPECT_FALSE(detail::has_young_characters(neighbour)) << neighbour;
}

// What Oniguruma repeats: a group that captures nothing is what it holds.
TEST(Oniguruma, GroupsOfAnchorsAreAnchors) {
  const std::vector<std::string> pieces = {"a", "b", " ", "b"};
  const std::vector<PatternCase> cases = {
      {"((?=a))*", "ab b", pieces}, {"(?:\\ba)*", "ab b", pieces}, {"(?i:\\b)*", "ab b", pieces}};
  for (const PatternCase& c : cases) EXPECT_EQ(isolated(c.pattern, c.text), c.pieces) << c.pattern;
  for (const char* pattern : {"(?:\\b)*", "(?:a|(?=b))*", "(?:(?:^))+", "(?:(?<=a))??"})
    EXPECT_THROW(detail::oniguruma_to_pcre2(pattern), detail::PatternError) << pattern;
}

TEST(Oniguruma, RefusesByNameWhatHasNoTranslation) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"(a)\\1", "a back reference"},
      {"(?<n>a)\\k<n>", "a back reference"},
      {"(?<n>a)\\g<n>", "a call of a group"},
      {"(?~ab)", "absence"},
      {"(a)?(?(1)b|c)", "a condition"},
      {"\\Ga", "`\\G`"},
      {"a\\Kb", "`\\K`"},
      {"\\X", "`\\X`"},
      {"\\cA", "`\\c`"},
      {"\\M-a", "`\\M`"},
      {"\\xE3", "not ASCII"},
      {"(?i:strasse)", "also stands for one character"},
      {"(?i:\u00df)", "case folding makes several"},
      {"(?i:[\\p{Lu}])", "a set of more than ASCII"},
      {"^*", "a repeated anchor"},
      {"[^[^[^\\h+]&&\\H-]]", "`[^...]` of ASCII alone with another `[^` in it"},
      {"(?s:a)", "`(?s` is no group"},
      {"(*UTF)a", "nothing to repeat"},
      {"\\p{Script=Han}", "`Script=Han` is no property"},
      {"\\p{Klingon}", "`Klingon` is not known"},
      {"\\pL", "expected \\p{NAME}"},
      {"[a", "without its `]`"},
      {"[]", "an empty set"},
      {"[a&&]", "one side of `&&` is empty"},
      {"[\\w-a]", "a range cannot begin with a class"},
      {"[z-a]", "runs backwards"},
      {"(a", "without its `)`"},
      {"a)", "without its `(`"},
      {"\\", "at the end"},
  };
  for (const auto& [pattern, problem] : cases) {
    try {
      const std::string translated = detail::oniguruma_to_pcre2(pattern);
      ADD_FAILURE() << pattern << " became " << translated;
    } catch (const detail::PatternError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(problem)) << pattern;
    }
  }
  EXPECT_THROW(detail::oniguruma_to_pcre2(std::string(100000, '(')), detail::PatternError);
  EXPECT_THROW(detail::oniguruma_to_pcre2(std::string(100000, '[')), detail::PatternError);
}

std::string repeated(std::string_view part, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += part;
  return all;
}

// Whatever nests, in the reader or in what matches.
TEST(Oniguruma, DeepPatternsAreRefused) {
  constexpr int kDepth = 100'000;
  for (const char* opening :
       {"(?i)", "(?m-i)", "(", "(?:", "(?i:", "(?=", "(?<!", "(?>", "(?<a>", "[", "[^a["})
    EXPECT_THROW(detail::oniguruma_to_pcre2(repeated(opening, kDepth) + "a"), detail::PatternError)
        << opening;
  for (const char* quantifier : {"{1}", "+", "{2,3}", "*?"})
    EXPECT_THROW(detail::oniguruma_to_pcre2("a" + repeated(quantifier, kDepth)), detail::PatternError)
        << quantifier;
}

TEST(Oniguruma, LongPatternsThatDoNotNestAreRead) {
  EXPECT_EQ(isolated(repeated("a|", 2000) + "b", "xbx"), (std::vector<std::string>{"x", "b", "x"}));
  EXPECT_EQ(isolated(repeated("(?:b)?", 200) + "a", "xbax"), (std::vector<std::string>{"x", "ba", "x"}));
  // Options reach to the end of the group, so that each of these is one level.
  EXPECT_EQ(isolated(repeated("(?i)", 100) + "b", "xBx"), (std::vector<std::string>{"x", "B", "x"}));
}

TEST(Oniguruma, TheRefusalNamesThePlaceInTheFile) {
  const nlohmann::json node = {{"Regex", "(?~a)"}};
  try {
    const detail::Pattern pattern(detail::JsonView(node, "tokenizer.json", "pre_tokenizer.pattern"));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_THAT(error.what(), testing::HasSubstr("tokenizer.json: pre_tokenizer.pattern.Regex: "));
    EXPECT_THAT(error.what(), testing::HasSubstr("absence, `(?~`, in a pattern is not built at offset 2"));
  }
}

}  // namespace
}  // namespace msplora
