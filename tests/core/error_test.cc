#include "msplora/core/error.h"

#include <gtest/gtest.h>
#include <string>
#include <string_view>

namespace msplora {
namespace {

TEST(NearestName, FindsTyposAndNothingElse) {
  EXPECT_EQ(nearest_name("quary", {"key", "query", "value"}), "query");
  EXPECT_EQ(nearest_name("completely_different", {"key", "query", "value"}), "");
}

TEST(ErrorList, ReportsEveryProblemAtOnce) {
  ErrorList problems;
  EXPECT_NO_THROW(problems.throw_if_any(ErrorCode::kConfig, "recipe.yaml"));
  problems.add("train.lr", "expected a positive number, got -1");
  problems.add("adapter.rnak", "unknown key", "did you mean `rank`?");
  try {
    problems.throw_if_any(ErrorCode::kConfig, "recipe.yaml");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("train.lr"), std::string::npos);
    EXPECT_NE(text.find("did you mean `rank`?"), std::string::npos);
  }
}

TEST(Error, ControlCharactersOfDataDoNotReachTheTerminal) {
  const Error error(ErrorCode::kData, "a\rb.tsv:1", "found \"\x1b[2J\t\x7f\u0085\u00e9\"", "two\nlines\b");
  EXPECT_STREQ(error.what(), "a\\rb.tsv:1: found \"\\x1b[2J\\t\\x7f\\x85\u00e9\" (two\nlines\\x08)");
  EXPECT_EQ(error.where(), "a\\rb.tsv:1");
  EXPECT_EQ(error.hint(), "two\nlines\\x08");
  EXPECT_EQ(printable(std::string_view("\0\xC2", 2)), "\\x00\xC2");
  EXPECT_EQ(printable_line("a\n\x1b[1mb\tc"), "a\\n\\x1b[1mb\\tc");
}

}  // namespace
}  // namespace msplora
