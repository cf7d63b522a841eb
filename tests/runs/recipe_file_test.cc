// Recipe files and what replaces their values.
#include "msplora/runs/recipe_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/core/log.h"
#include "msplora/federated/options.h"
#include "msplora/runs/compare.h"
#include "runs/run_fixture.h"

namespace msplora {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class RecipeFiles : public RunFixture {
 protected:
  RecipeFiles() {
    set_log_sink([this](LogLevel, std::string_view message) { said_.emplace_back(message); });
  }
  ~RecipeFiles() override { set_log_sink({}); }

  /// A recipe with this section for the adapter.
  std::string file(const std::string& adapter, const std::string& more = "") const {
    write_file_atomically(path("recipe.yaml"),
                          "model: {path: " + path("base") + "}\ndata: {train: " + path("train.tsv") +
                              "}\noutput: {dir: " + path("run") + "}\nadapter: {" + adapter + "}\n" + more);
    return path("recipe.yaml");
  }
  template <class Options = Recipe>
  Options load(const std::string& adapter, std::vector<std::string> overrides, const std::string& more = "") {
    said_.clear();
    return load_recipe<Options>(file(adapter, more), {.overrides = std::move(overrides)});
  }
  /// What a run says that cannot be opened.
  std::string refusal(const std::string& adapter, std::vector<std::string> overrides) {
    return error_text(ErrorCode::kConfig, [&] { open_run(load(adapter, std::move(overrides))); });
  }

  std::vector<std::string> said_;
};

TEST_F(RecipeFiles, AnotherMethodLeavesOutWhatItHasNoUseFor) {
  const std::string adapter = "method: msplora, dropout: 0.1, rank: 4, alphas: [8, 8, 8]";
  Recipe recipe = load(adapter, {"adapter.method=none"});
  EXPECT_EQ(recipe.adapter.method, "none");
  EXPECT_EQ(recipe.adapter.dropout, 0.0);
  EXPECT_THAT(said_,
              ElementsAre(AllOf(HasSubstr("recipe.yaml: "), HasSubstr("adapter.dropout"),
                                HasSubstr("adapter.alphas"), HasSubstr("`none` has no use for them"))));
  recipe = load(adapter, {"adapter.method=lora", "train.seed=3"});
  EXPECT_EQ(recipe.adapter.dropout, 0.1);
  EXPECT_EQ(recipe.adapter.rank, 4);
  EXPECT_THAT(said_, ElementsAre(AllOf(HasSubstr("adapter.alphas left out"), HasSubstr("use for it"),
                                       Not(HasSubstr("dropout")))));
  // Options of one method, and a whole section in one override.
  recipe = load("method: xgblora, xgblora: {rounds: 3}", {"adapter={method: lora, rank: 2}"});
  EXPECT_EQ(recipe.adapter.rank, 2);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("adapter.xgblora.rounds left out")));
  EXPECT_EQ(load<FederateRecipe>("method: msplora, alphas: [8, 8, 8]", {"adapter.method=lora"},
                                 "federated: {clients: 2}\n")
                .adapter.method,
            "lora");
}

TEST_F(RecipeFiles, WhatAnOverrideSaysIsJudgedAsEver) {
  const std::string lora = "method: lora, dropout: 0.1", none = "method: none, dropout: 0.1";
  EXPECT_THAT(refusal(lora, {"adapter.method=none", "adapter.dropout=0.2"}), HasSubstr("adapter.dropout"));
  EXPECT_THAT(refusal(lora, {"adapter.dropout=0.2", "adapter.method=none"}), HasSubstr("adapter.dropout"));
  open_run(load(lora, {"adapter.method=none"}));
  // So is the file where nothing else is chosen, or no method.
  EXPECT_THAT(refusal(none, {}), HasSubstr("adapter.dropout"));
  EXPECT_THAT(refusal(none, {"adapter.method=none"}), HasSubstr("adapter.dropout"));
  EXPECT_THAT(refusal("dropout: 0.1", {"adapter.method=nonne"}), HasSubstr("did you mean `none`"));
  EXPECT_THAT(said_, IsEmpty());
  load("method: lora, dropout: 0.1", {"adapter.method=lora"});
  EXPECT_THAT(said_, IsEmpty());
}

// A comparison has many methods; what is common to them stays.
TEST_F(RecipeFiles, ComparisonsKeepWhatIsForOthers) {
  const auto recipe = load<CompareRecipe>("method: lora, dropout: 0.1", {"adapter.method=none"},
                                          "compare: {methods: [lora, none]}\n");
  EXPECT_EQ(recipe.adapter.dropout, 0.1);
  EXPECT_THAT(said_, IsEmpty());
}

TEST_F(RecipeFiles, ProblemsAreSaidOnce) {
  ErrorList errors;
  Recipe recipe;
  read_recipe(file("rank: [", ""), {.overrides = {"train.seeed=3"}}, recipe, errors);
  ASSERT_EQ(errors.size(), 2U);
  EXPECT_THAT(errors.problems()[0].what(), HasSubstr("not valid YAML"));
  EXPECT_THAT(errors.problems()[1].what(), HasSubstr("train.seeed"));
  EXPECT_THAT(error_text(ErrorCode::kConfig, [&] { load("", {}, "compare: {methods: [lora]}\n"); }),
              HasSubstr("is a recipe of `compare`"));
}

}  // namespace
}  // namespace msplora
