#include "msplora/core/option_io.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace msplora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

struct Inner {
  int64_t rank = 8;
  double alpha = 16.0;
  double dropout = 0.0;
  std::string shape = "linear";
  std::vector<std::string> modules = {"query", "value"};
  std::vector<int64_t> layers;
  std::map<std::string, int64_t> pattern;
  std::optional<double> head_lr;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("rank", rank, "Rank", at_least(1));
    visitor("alpha", alpha, "Scaling", above(0));
    visitor("dropout", dropout, "Dropout", probability_below_one());
    visitor("shape", shape, "Shape", one_of({"linear", "cosine"}));
    visitor("modules", modules, "Names");
    visitor("layers", layers, "Indices", at_least(0));
    visitor("pattern", pattern, "By name", at_least(1));
    visitor("head_lr", head_lr, "Rate", above(0));
  }
};

struct Outer {
  Inner inner;
  bool fast = false;
  std::string path;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("inner", inner, "The inner part");
    visitor("fast", fast, "Fast or not");
    visitor("path", path, "Where");
  }
};

std::string problems_of(const std::string& yaml) {
  Outer options;
  ErrorList errors;
  read_yaml(options, yaml, "recipe.yaml", errors);
  try {
    errors.throw_if_any(ErrorCode::kConfig, "recipe.yaml");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string problems_of_override(const std::string& assignment) {
  Outer options;
  ErrorList errors;
  apply_override(options, assignment, errors);
  try {
    errors.throw_if_any(ErrorCode::kConfig, "overrides");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ReadYaml, TakesEveryType) {
  Outer options;
  ErrorList errors;
  read_yaml(
      options,
      "inner:\n  rank: 4\n  alpha: 3e-4\n  shape: cosine\n  modules: [no, 1, \"a: b\"]\n  layers: [0, 2]\n"
      "  pattern: {\"layer\\\\.0\": 2}\n  head_lr: .5\nfast: true\npath: 007\n",
      "recipe.yaml", errors);
  EXPECT_TRUE(errors.empty());
  EXPECT_EQ(options.inner.rank, 4);
  EXPECT_DOUBLE_EQ(options.inner.alpha, 3e-4);
  EXPECT_EQ(options.inner.shape, "cosine");
  EXPECT_THAT(options.inner.modules, ElementsAre("no", "1", "a: b"));
  EXPECT_THAT(options.inner.layers, ElementsAre(0, 2));
  EXPECT_EQ(options.inner.pattern.at("layer\\.0"), 2);
  EXPECT_DOUBLE_EQ(*options.inner.head_lr, 0.5);
  EXPECT_TRUE(options.fast);
  EXPECT_EQ(options.path, "007");
}

TEST(ReadYaml, KeepsDefaultsOfWhatIsNotNamed) {
  Outer options;
  ErrorList errors;
  read_yaml(options, "# nothing\ninner:\n", "recipe.yaml", errors);
  read_yaml(options, "", "recipe.yaml", errors);
  EXPECT_TRUE(errors.empty());
  EXPECT_THAT(options.inner.modules, ElementsAre("query", "value"));
}

TEST(ReadYaml, NullUnsetsAnOptional) {
  Outer options;
  options.inner.head_lr = 1.0;
  ErrorList errors;
  read_yaml(options, "inner: {head_lr: ~}", "recipe.yaml", errors);
  EXPECT_TRUE(errors.empty());
  EXPECT_FALSE(options.inner.head_lr.has_value());
}

TEST(ReadYaml, AcceptsIntegersWrittenAsFloats) {
  Outer options;
  ErrorList errors;
  read_yaml(options, "inner: {rank: 1e3}", "recipe.yaml", errors);
  EXPECT_TRUE(errors.empty());
  EXPECT_EQ(options.inner.rank, 1000);
}

TEST(ReadJson, IntegersThatDoNotFitAreRefused) {
  Outer options;
  for (const nlohmann::json& value :
       {nlohmann::json(18446744073709551615ull), nlohmann::json(9223372036854775808ull),
        nlohmann::json(1e300), nlohmann::json(2.5)}) {
    try {
      set_option(options, "inner.rank", value, "adapter");
      ADD_FAILURE() << value << " became " << options.inner.rank;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("adapter.inner.rank: wrong type or out of range"));
    }
  }
  set_option(options, "inner.rank", 9223372036854775807ull, "adapter");
  EXPECT_EQ(options.inner.rank, 9223372036854775807ll);
  ErrorList errors;
  read_yaml(options, "inner: {rank: 18446744073709551615}", "recipe.yaml", errors);
  EXPECT_EQ(errors.size(), 1u);
}

TEST(ReadYaml, ReportsAllProblemsWithTheirLines) {
  const std::string text = problems_of(
      "inner:\n  rnak: 4\n  rank: 0\n  alpha: fast\n  dropout: 1\n  shape: linaer\n  modules: query\n"
      "  layers: [1, -1]\nfast: maybe\nrank: 3\n");
  EXPECT_THAT(text, HasSubstr("9 problems"));
  EXPECT_THAT(text, HasSubstr("recipe.yaml:2: inner.rnak: unknown key (did you mean `rank`?)"));
  EXPECT_THAT(text, HasSubstr("recipe.yaml:3: inner.rank: expected at least 1, found 0"));
  EXPECT_THAT(text, HasSubstr("recipe.yaml:4: inner.alpha: expected a number, found `fast`"));
  EXPECT_THAT(text, HasSubstr("recipe.yaml:5: inner.dropout: expected a number in [0, 1), found 1"));
  EXPECT_THAT(
      text,
      HasSubstr("recipe.yaml:6: inner.shape: expected `linear` or `cosine`, found `linaer`; did you mean "
                "`linear`?"));
  EXPECT_THAT(text,
              HasSubstr("recipe.yaml:7: inner.modules: expected a list, found `query` (write `[query]`)"));
  EXPECT_THAT(text, HasSubstr("inner.layers[1]: expected at least 0, found -1"));
  EXPECT_THAT(text, HasSubstr("recipe.yaml:9: fast: expected true or false, found `maybe`"));
  EXPECT_THAT(text, HasSubstr("recipe.yaml:10: rank: unknown key (did you mean `inner.rank`?)"));
}

TEST(ReadYaml, RefusesQuotedNumbersAndNumbersThatAreNone) {
  EXPECT_THAT(problems_of("inner: {rank: \"8\"}"), HasSubstr("expected an integer, found the text `8`"));
  EXPECT_THAT(problems_of("inner: {rank: 1.5}"), HasSubstr("expected an integer, found `1.5`"));
  EXPECT_THAT(problems_of("inner: {rank: 99999999999999999999}"), HasSubstr("expected an integer"));
  EXPECT_THAT(problems_of("inner: {rank: }"), HasSubstr("expected an integer, found nothing"));
  EXPECT_THAT(problems_of("inner: {alpha: nan}"), HasSubstr("expected a number, found `nan`"));
  EXPECT_THAT(problems_of("inner: {alpha: 1e999}"), HasSubstr("expected a number"));
  EXPECT_THAT(problems_of("inner: 3"), HasSubstr("inner: expected a group of keys, found `3`"));
}

TEST(ReadYaml, NamesTheLineOfBadSyntax) {
  EXPECT_THAT(problems_of("inner:\n  rank: [1\nfast: true\n"), HasSubstr("recipe.yaml:"));
  EXPECT_THAT(problems_of("inner: {rank: 1}\ninner: {rank: 2}\n"),
              HasSubstr("recipe.yaml:2: the key `inner` is given twice"));
  EXPECT_THAT(problems_of("- a\n- b\n"), HasSubstr("expected `key: value` lines"));
  EXPECT_THAT(problems_of("fast: true\n---\nfast: false\n"),
              HasSubstr("expected one YAML document, found 2"));
}

TEST(ReadYaml, SurvivesAliasesThatMultiply) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 8; ++i) {
    bomb += fmt::format("a{0}: &a{0} [", i);
    for (int k = 0; k < 10; ++k) bomb += fmt::format("{}*a{}", k > 0 ? ", " : "", i - 1);
    bomb += "]\n";
  }
  EXPECT_THAT(problems_of(bomb), HasSubstr("repeated too often"));
}

TEST(ApplyOverride, SetsNestedValuesAndLists) {
  Outer options;
  ErrorList errors;
  for (const char* text : {"inner.rank=2", "inner.modules=[key]", "path=a=b", "inner.pattern.layer.0.query=4",
                           "inner.pattern.layer.1=6", "inner.head_lr=1e-3"}) {
    apply_override(options, text, errors);
  }
  EXPECT_TRUE(errors.empty());
  EXPECT_EQ(options.inner.rank, 2);
  EXPECT_THAT(options.inner.modules, ElementsAre("key"));
  EXPECT_EQ(options.path, "a=b");
  EXPECT_EQ(options.inner.pattern, (std::map<std::string, int64_t>{{"layer.0.query", 4}, {"layer.1", 6}}));
}

TEST(ApplyOverride, NamesTheOverride) {
  EXPECT_EQ(problems_of_override("inner.rnak=2"), "--set inner.rnak: unknown key (did you mean `rank`?)");
  EXPECT_EQ(problems_of_override("inner.rank=x"), "--set inner.rank: expected an integer, found `x`");
  EXPECT_THAT(problems_of_override("inner.rank"), HasSubstr("expected KEY=VALUE"));
  EXPECT_THAT(problems_of_override("inner..rank=1"), HasSubstr("expected KEY=VALUE"));
  EXPECT_THAT(problems_of_override("inner.modules=[a"), HasSubstr("not valid YAML"));
  EXPECT_THAT(problems_of_override("inner.rank.x=1"),
              HasSubstr("expected an integer, found a group of keys"));
}

TEST(ToYaml, ComesBackUnchanged) {
  Outer options;
  options.inner.alpha = 0.1;
  options.inner.modules = {"true", "12", "a: b", "x\ny", "", "#c", "ä", "plain-word"};
  options.inner.pattern = {{"^a\\.b$", 3}};
  options.path = "null";
  const std::string yaml = to_yaml(options);
  Outer back;
  ErrorList errors;
  read_yaml(back, yaml, "recipe.yaml", errors);
  EXPECT_TRUE(errors.empty()) << yaml;
  EXPECT_EQ(to_json(back), to_json(options)) << yaml;
}

TEST(ToJson, WritesUnsetOptionsAsNull) {
  const nlohmann::json json = to_json(Outer{});
  EXPECT_EQ(json["inner"]["rank"], 8);
  EXPECT_TRUE(json["inner"]["head_lr"].is_null());
  EXPECT_EQ(json["fast"], false);
}

TEST(Describe, ListsKeysTypesDefaultsAndRanges) {
  const std::vector<OptionDoc> docs = describe(Outer{});
  EXPECT_EQ(docs[0].key, "inner");
  EXPECT_EQ(docs[0].type, "");
  EXPECT_EQ(docs[1].key, "inner.rank");
  EXPECT_EQ(docs[1].type, "integer");
  EXPECT_EQ(docs[1].default_value, "8");
  EXPECT_EQ(docs[1].range, "at least 1");
  EXPECT_EQ(docs[5].default_value, "[query, value]");
  EXPECT_EQ(docs[7].type, "map from text to integer");
  EXPECT_EQ(docs[8].default_value, "");
  EXPECT_THAT(options_to_text(docs), HasSubstr("  inner.rank = 8\n      Rank (integer; at least 1)\n"));
  EXPECT_THAT(options_to_text(docs), HasSubstr("  inner.head_lr = unset\n"));
  const std::string markdown = options_to_markdown(docs);
  EXPECT_THAT(markdown, HasSubstr("### `inner`"));
  EXPECT_THAT(markdown, HasSubstr("| `inner.shape` | text | `linear` | `linear` or `cosine` | Shape |"));
  EXPECT_THAT(markdown, Not(HasSubstr("||")));
}

}  // namespace
}  // namespace msplora
