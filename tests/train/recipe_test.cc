#include "msplora/train/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/option_io.h"

namespace msplora {
namespace {

Recipe valid() {
  Recipe recipe;
  recipe.model.path = "model";
  recipe.output.dir = "out";
  return recipe;
}

std::string problems(const Recipe& recipe) {
  ErrorList errors;
  check_recipe(recipe, errors, "r.yaml");
  try {
    errors.throw_if_any(ErrorCode::kConfig, "wrong");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Recipe, DefaultsAreValid) {
  EXPECT_EQ(problems(valid()), "");
}

TEST(Recipe, ReportsEveryProblemAtOnce) {
  Recipe recipe;
  recipe.train.batch_size = 8;
  recipe.train.token_budget = 1024;
  recipe.train.warmup_steps = 100;
  recipe.train.warmup_ratio = 0.1;
  recipe.train.max_steps = 50;
  recipe.train.stop_at = 60;
  recipe.output.save_peft = recipe.output.save_native = false;
  const std::string text = problems(recipe);
  for (const char* key :
       {"r.yaml: model.path", "r.yaml: output.dir", "train.token_budget", "train.warmup_ratio",
        "train.warmup_steps", "train.stop_at", "output.save_native"}) {
    EXPECT_THAT(text, testing::HasSubstr(key));
  }
}

TEST(Recipe, PretrainingNeedsText) {
  PretrainRecipe recipe;
  recipe.model.path = "model";
  recipe.output.dir = "out";
  ErrorList errors;
  check_recipe(recipe, errors);
  EXPECT_EQ(errors.size(), 1u);
  recipe.data.train = {"text.txt"};
  recipe.train.head_lr = 1e-3;
  ErrorList again;
  check_recipe(recipe, again);
  EXPECT_EQ(again.size(), 1u);
}

TEST(Recipe, JsonHoldsEveryOption) {
  Recipe recipe = valid();
  recipe.adapter.ranks = {8, 4};
  const nlohmann::json json = recipe_to_json(recipe);
  EXPECT_EQ(json.at("model").at("path"), "model");
  EXPECT_EQ(json.at("train").at("lr"), 5e-4);
  EXPECT_TRUE(json.at("train").at("head_lr").is_null());
  EXPECT_EQ(json.at("adapter").at("ranks"), (std::vector<int64_t>{8, 4}));
  EXPECT_EQ(json.at("task").at("type"), "classification");
}

TEST(Recipe, FindsTheKeysThatForbidResuming) {
  Recipe before = valid();
  before.adapter.target_modules = {"query", "value"};
  Recipe after = before;
  EXPECT_THAT(changed_keys(recipe_to_json(before), recipe_to_json(after)), testing::IsEmpty());
  after.output.dir = "elsewhere";
  after.train.log_every = 1;
  after.train.threads = 8;
  EXPECT_THAT(changed_keys(recipe_to_json(before), recipe_to_json(after)), testing::IsEmpty());
  after.train.epochs = 20;  // the schedule depends on the length
  after.train.max_steps = 7;
  after.train.lr = 1e-3;
  after.train.head_lr = 1e-2;
  after.adapter.target_modules.push_back("key");
  after.adapter.rank_pattern["query"] = 3;
  EXPECT_THAT(changed_keys(recipe_to_json(before), recipe_to_json(after)),
              testing::UnorderedElementsAre("train.epochs", "train.max_steps", "train.lr", "train.head_lr",
                                            "adapter.target_modules.2", "adapter.rank_pattern",
                                            "adapter.rank_pattern.query"));
}

TEST(Recipe, DataAreOneFileOrSeveralWithWeights) {
  const auto read = [](const std::string& value, std::string* problem = nullptr) {
    Recipe recipe;
    ErrorList errors;
    read_yaml(recipe, "data:\n  train: " + value + "\n", "r.yaml", errors);
    if (problem != nullptr) *problem = errors.empty() ? "" : errors.problems().front().what();
    return recipe.data.train;
  };
  EXPECT_EQ(read("a.csv"), DataFiles("a.csv"));
  EXPECT_EQ(read("{path: a.csv, weight: 2}")->files, (std::vector<WeightedFile>{{"a.csv", 2.0}}));
  const std::optional<DataFiles> several = read("[a.csv, {path: b.csv, weight: 0.5}]");
  EXPECT_EQ(several->files, (std::vector<WeightedFile>{{"a.csv", 1.0}, {"b.csv", 0.5}}));
  for (const std::optional<DataFiles>& files : {several, read("a.csv"), read("[a.csv, b.csv]")}) {
    Recipe recipe = valid(), again, from_json;
    recipe.data.train = files;
    ErrorList errors;
    read_yaml(again, to_yaml(recipe), "again.yaml", errors);
    read_json(from_json, recipe_to_json(recipe), "json", errors);
    EXPECT_TRUE(errors.empty());
    EXPECT_EQ(again.data.train, files);
    EXPECT_EQ(from_json.data.train, files);
  }
  EXPECT_EQ(recipe_to_json(valid())["data"]["train"], nullptr);
  for (const auto& [value, expected] :
       {std::pair("[]", "at least one"),
        {"[a.csv, {path: b.csv, weight: 0}]", "expected a number in (0, 1000], found 0"},
        {"[a.csv, {weight: 2}]", "`path` is missing"},
        {"[{path: a.csv, wieght: 2}]", "wieght"},
        {"[[a.csv]]", "a path"}}) {
    std::string problem;
    read(value, &problem);
    EXPECT_THAT(problem,
                testing::AllOf(testing::HasSubstr(expected), testing::HasSubstr("r.yaml:2: data.train")))
        << value;
  }
}

TEST(Recipe, SamplesAreOfModelsThatWrite) {
  Recipe recipe = valid();
  recipe.train.samples.prompts = {"a"};
  EXPECT_THAT(problems(recipe), testing::HasSubstr("train.samples.prompts"));
  recipe.task.type = "sft";
  EXPECT_EQ(problems(recipe), "");
  const nlohmann::json before = recipe_to_json(recipe);
  recipe.train.samples.prompts = {"a", "b"};
  EXPECT_TRUE(changed_keys(before, recipe_to_json(recipe)).empty());
}

}  // namespace
}  // namespace msplora
