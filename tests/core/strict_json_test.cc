// What the one reader of JSON from outside refuses beyond the grammar.
#include "core/strict_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "core/chat_templates.h"
#include "error_text.h"

namespace msplora {
namespace {

using namespace std::string_view_literals;
using nlohmann::json;
using testing::HasSubstr;

std::string problem_of(std::string_view text) {
  return error_text(ErrorCode::kFormat, [&] { detail::parse_strict_json(text, "a.json"); });
}

TEST(StrictJson, ReadsJson) {
  EXPECT_EQ(detail::parse_strict_json(R"( {"a": [1, {"a": "b\u0000"}], "b": {"a": null}} )", "a.json"),
            json({{"a", {1, {{"a", "b\0"sv}}}}, {"b", {{"a", nullptr}}}}));
}

TEST(StrictJson, SaysWhereTheFaultIs) {
  EXPECT_THAT(problem_of("{\"a\": }"), HasSubstr("a.json: expected JSON, found a fault at byte 7: "));
  EXPECT_THAT(problem_of("{} x"), HasSubstr("at byte 4: invalid literal"));
  EXPECT_THAT(problem_of("[1e999]"), HasSubstr("a.json: expected JSON, found a fault: number overflow"));
  EXPECT_THAT(problem_of(""), HasSubstr("expected JSON"));
}

TEST(StrictJson, RefusesWhatReadersTakeDifferently) {
  EXPECT_THAT(problem_of("{\"a\": 1}\0zzz"sv), HasSubstr("zero byte at position 8"));
  EXPECT_THAT(problem_of("{\"a\": 1}\0"sv), HasSubstr("zero byte"));
  EXPECT_THAT(problem_of(R"({"a": 1, "b": 2, "a": 1})"), HasSubstr("the key `a` appears twice"));
  EXPECT_THAT(problem_of(R"({"x": [{"a": 1, "a": 2}]})"), HasSubstr("a.json: x: the key `a` appears twice"));
}

// Such a value would overflow the stack where it is copied or written.
TEST(StrictJson, RefusesDeepNestingAndNamesTheKey) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THAT(problem_of(deep), HasSubstr("a.json: expected JSON nested at most 64 levels deep"));
  EXPECT_THAT(problem_of("{\"a\": 1, \"b\": " + deep + "}"), HasSubstr("a.json: b: expected JSON nested"));
  EXPECT_FALSE(detail::try_strict_json(deep).has_value());
  EXPECT_TRUE(detail::try_strict_json(std::string(64, '[') + std::string(64, ']')).has_value());
}

TEST(StrictJson, OrderedValuesAndOtherRules) {
  detail::JsonRules rules;
  rules.code = ErrorCode::kData;
  rules.most_keys = 2;
  rules.hint = "a hint";
  const auto parse = [&](std::string_view text) {
    return detail::parse_strict<nlohmann::ordered_json>(text, "row", rules);
  };
  EXPECT_EQ(parse(R"({"b": 1, "a": 2})").dump(), R"({"b":1,"a":2})");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { parse(R"({"b": 1, "a": 2, "c": 3})"); }),
              testing::AllOf(HasSubstr("more than 2 keys"), HasSubstr("a hint")));
}

TEST(ChatTemplates, OneTextOrSeveralWithNames) {
  using Named = std::map<std::string, std::string>;
  EXPECT_EQ(detail::named_chat_templates("text", "c"), (Named{{"default", "text"}}));
  const json list = {{{"name", "default"}, {"template", "a"}}, {{"name", "tool_use"}, {"template", "b"}}};
  EXPECT_EQ(detail::named_chat_templates(list, "c"), (Named{{"default", "a"}, {"tool_use", "b"}}));
  for (const char* bad :
       {"3", "{}", "[3]", R"([{"name": "default"}])", R"([{"name": 3, "template": "a"}])"}) {
    EXPECT_THAT(error_text(ErrorCode::kFormat,
                           [&] { detail::named_chat_templates(json::parse(bad), "t.json: chat_template"); }),
                HasSubstr("t.json: chat_template: expected a text, or a list of {name, template}, found"));
  }
}

}  // namespace
}  // namespace msplora
