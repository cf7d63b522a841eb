#include "msplora/core/json_problem.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace msplora {
namespace {

using testing::HasSubstr;

std::string problem_of(const std::string& text) {
  try {
    return nlohmann::json::parse(text).dump();
  } catch (const nlohmann::json::parse_error& error) {
    return json_problem(error, text.size());
  }
}

TEST(JsonProblem, IsSaidInWords) {
  EXPECT_THAT(problem_of("{\"a\": [1, 2"), HasSubstr("cut short: it ends at byte 11 "));
  EXPECT_THAT(problem_of("{\"a\": 1]"), HasSubstr("damaged: no JSON at byte 8: unexpected ']'"));
  EXPECT_THAT(problem_of(""), HasSubstr("the file is empty"));
}

}  // namespace
}  // namespace msplora
