#include "msplora/runs/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/core/file.h"
#include "msplora/core/option_io.h"
#include "runs/comparison_fixture.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string problem_of(const CompareRecipe& recipe) {
  try {
    plan_of(recipe);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfig);
    return error.what();
  }
  return "no problem";
}

TEST(Compare, PlansEveryMethodWithItsOwnOptions) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"msplora", "lora", "full", "bitfit", "none"};
  recipe.adapter.ranks = {8, 2};  // msplora's; lora would refuse them
  recipe.adapter.rank_pattern = {{"query", 4}};
  recipe.compare.settings = {{"lora", {"adapter.alpha=3", "train.weight_decay=0"}},
                             {"full", {"train.lr=1e-5"}}};
  const ComparisonPlan plan = plan_of(recipe);
  ASSERT_EQ(plan.methods.size(), 5u);
  const Recipe &msplora = plan.methods[0].recipe, &lora = plan.methods[1].recipe;
  EXPECT_THAT(msplora.adapter.ranks, ElementsAre(8, 2));
  EXPECT_TRUE(msplora.adapter.rank_pattern.empty());
  EXPECT_TRUE(lora.adapter.ranks.empty());
  EXPECT_EQ(lora.adapter.rank_pattern.size(), 1u);
  EXPECT_EQ(lora.adapter.alpha, 3.0);
  EXPECT_EQ(lora.train.weight_decay, 0.0);
  EXPECT_EQ(msplora.train.weight_decay, recipe.train.weight_decay);
  // Three layers of query and value, 32 wide; the query has rank 4.
  EXPECT_EQ(plan.methods[1].parameters, 3 * 64 * (8 + 4));
  EXPECT_EQ(plan.reference_parameters, plan.methods[1].parameters);
  EXPECT_TRUE(plan.methods[1].has_rank);
  for (const size_t i : {size_t{0}, size_t{2}, size_t{3}, size_t{4}}) EXPECT_FALSE(plan.methods[i].has_rank);
  EXPECT_THAT(plan.rates_of(plan.methods[1]), ElementsAre(1e-3));
  EXPECT_THAT(plan.rates_of(plan.methods[2]), ElementsAre(1e-5));
  const PlannedRun run = plan.run(plan.methods[2], 1e-5, 7);
  EXPECT_EQ(run.recipe.output.dir, "out/runs/full/lr-1e-05-seed-7");
  EXPECT_EQ(run.recipe.train.seed, 7);
  EXPECT_EQ(run.recipe.train.lr, 1e-5);
  EXPECT_EQ(run.recipe.adapter.method, "full");
}

// Else all rates of the grid would be one and the same run.
TEST(Compare, OfTheHeadAloneTheRateOfTheHeadIsTuned) {
  CompareRecipe recipe = small_recipe();
  recipe.train.head_lr = 1e-3;
  recipe.compare.methods = {"lora", "none"};
  recipe.compare.lr_grid = {1e-3, 1e-2};
  const ComparisonPlan plan = plan_of(recipe);
  EXPECT_EQ(plan.run(plan.methods[0], 1e-2, 1).recipe.train.head_lr, 1e-3);
  EXPECT_EQ(plan.run(plan.methods[1], 1e-2, 1).recipe.train.head_lr, 1e-2);
  recipe.compare.lr_grid.clear();
  EXPECT_EQ(plan_of(recipe).run(plan.methods[1], 5e-4, 1).recipe.train.head_lr, 1e-3);
}

TEST(Compare, CountsOfTheBaselinesAreThoseOfTheModel) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"full", "bitfit"};
  const ComparisonPlan plan = plan_of(recipe);
  ModelLoadOptions load;
  load.num_labels = 2;
  const auto model = create_model(tiny_config(), load);
  int64_t all = 0, biases = 0;
  for (const Parameter& parameter : model->parameters()) {
    if (parameter.name.starts_with("classifier.")) continue;
    all += parameter.values().numel();
    if (parameter.name.ends_with("bias")) biases += parameter.values().numel();
  }
  EXPECT_EQ(plan.methods[0].parameters, all);
  EXPECT_EQ(plan.methods[1].parameters, biases);
}

TEST(Compare, EqualParametersTakesTheNearestRank) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"msplora", "lora", "none"};
  recipe.compare.mode = "equal-parameters";
  recipe.adapter.rank = 16;
  const ComparisonPlan plan = plan_of(recipe);
  // msplora: 128 (r + 3 floor(r/2) + 3 floor(r/4)), 5760 at 15 and 6656 at 16.
  EXPECT_EQ(plan.reference_parameters, 6144);
  EXPECT_EQ(plan.methods[0].recipe.adapter.rank, 15);
  EXPECT_EQ(plan.methods[0].parameters, 5760);
  EXPECT_EQ(plan.methods[1].recipe.adapter.rank, 16);
  EXPECT_EQ(plan.methods[2].parameters, 0);
  recipe.compare.reference = "msplora";
  const ComparisonPlan other = plan_of(recipe);
  EXPECT_EQ(other.reference_parameters, 6656);
  EXPECT_EQ(other.methods[1].recipe.adapter.rank, 17);  // 384 r: 6528
  recipe.compare.reference = "none";
  EXPECT_THAT(problem_of(recipe), HasSubstr("no parameters to be matched"));
}

// VeRA's rank may exceed every width: 3 layers of query and value, 6 (r + 32) numbers.
TEST(Compare, EqualParametersSearchesAsFarAsTheMethodAllows) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"vera", "xgblora", "bitfit", "orthogonal"};
  recipe.compare.variants = {{"orthogonal", {"adapter.method=lora", "adapter.init=orthogonal"}}};
  recipe.compare.mode = "equal-parameters";
  recipe.adapter.rank = 32;
  const ComparisonPlan plan = plan_of(recipe);
  EXPECT_EQ(plan.reference_parameters, 6 * 64 * 32);
  EXPECT_EQ(plan.methods[0].recipe.adapter.rank, 64 * 32 - 32);
  EXPECT_EQ(plan.methods[0].parameters, plan.reference_parameters);
  EXPECT_EQ(plan.methods[1].recipe.adapter.rank, 32);  // of the total, which changes no number: it stays
  EXPECT_EQ(plan.methods[3].recipe.adapter.rank, 32);
  recipe.compare.reference = "vera";
  recipe.adapter.rank = 300;
  recipe.compare.methods = {"lora", "orthogonal"};
  EXPECT_EQ(plan_of(recipe).methods[0].recipe.adapter.rank, 5);  // 1920 and 384 r; 6 is as near
  EXPECT_EQ(plan_of(recipe).methods[1].recipe.adapter.rank, 6);  // even ranks alone: 4 is farther
  recipe.adapter.rank = 1;                                       // 198: fewer than lora can have
  EXPECT_EQ(plan_of(recipe).methods[0].recipe.adapter.rank, 1);
  recipe.adapter.rank = 10000;  // more than lora can have: its largest rank
  EXPECT_EQ(plan_of(recipe).methods[0].recipe.adapter.rank, 32);
}

TEST(Compare, ReportsAllProblemsAtOnce) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"lroa", "bitft", "lora", "lora"};
  std::string problem = problem_of(recipe);
  for (const char* part : {"did you mean `lora`?", "did you mean `bitfit`?", "named twice"}) {
    EXPECT_THAT(problem, HasSubstr(part));
  }
  recipe = small_recipe();
  recipe.compare.methods = {"lora", "msplora", "full"};
  recipe.adapter.rank = 40;
  recipe.compare.settings = {{"full", {"adapter.bias=all"}}};
  problem = problem_of(recipe);
  for (const char* part :
       {"method lora", "method msplora", "method full", "rank 40 is larger", "every bias"}) {
    EXPECT_THAT(problem, HasSubstr(part));
  }
  recipe = small_recipe();
  recipe.compare.lr_grid = {1e-3, 1e-3};
  EXPECT_THAT(problem_of(recipe), HasSubstr("a rate twice"));
  recipe.compare.lr_grid = {1e-3, 1e-2};
  recipe.compare.settings = {{"lora", {"train.lr=1", "adapter.method=none"}}};
  EXPECT_THAT(problem_of(recipe), HasSubstr("compare.lr_grid decides"));
  EXPECT_THAT(problem_of(recipe), HasSubstr("changes adapter.method"));
}

TEST(Compare, ParametersAreThoseThatTheRunsTrained) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.lr_grid = {1e-3};
  recipe.compare.seeds = 2;
  const RunOnce estimated = [](const PlannedRun& run) {
    RunOutcome outcome = scored([](const PlannedRun&) { return 0.5; })(run);
    outcome.adapter_parameters = 1000 * run.seed;
    outcome.trained_parameters = 1000 * run.seed + 10;
    return outcome;
  };
  const ComparisonPlan plan = plan_of(recipe);
  const Comparison comparison = run_comparison(plan, estimated);
  EXPECT_EQ(comparison.rows[0].parameters, 1500);
  EXPECT_EQ(comparison.rows[0].trained_parameters, 1510);
  EXPECT_NEAR(comparison.rows[0].share, 1500.0 / static_cast<double>(plan.reference_parameters), 1e-12);
}

TEST(Compare, FailuresCostTheirOwnEntry) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.lr_grid = {1e-3, 1e-2};
  recipe.compare.seeds = 2;
  const RunOnce run_once = [](const PlannedRun& run) {
    RunOutcome outcome = scored([](const PlannedRun& r) { return r.lr == 1e-2 ? 0.9 : NAN; })(run);
    if (run.method == "none" || run.seed == 2) outcome.error = "out of memory";
    return outcome;
  };
  int changes = 0;
  const ComparisonPlan plan = plan_of(recipe);
  const Comparison comparison =
      run_comparison(plan, run_once, [&](const Comparison&, const RunOutcome&) { ++changes; });
  const ComparisonRow &lora = comparison.rows[0], &none = comparison.rows[1];
  EXPECT_EQ(lora.lr, 1e-2) << "a score that is not a number cannot win";
  EXPECT_EQ(lora.runs.size(), 2u);
  EXPECT_EQ(lora.failed, 1);
  EXPECT_NEAR(lora.mean.value(), 0.1, 1e-12);
  EXPECT_FALSE(none.lr.has_value());
  EXPECT_FALSE(none.mean.has_value());
  EXPECT_EQ(none.failed, 2);
  EXPECT_EQ(changes, 5);
  const auto json = comparison_to_json(plan, comparison);
  EXPECT_TRUE(json["rows"][1]["mean"].is_null());
  EXPECT_EQ(json["rows"][0]["runs"][1]["error"], "out of memory");
  EXPECT_EQ(json["metric"], "accuracy");
}

TEST(Compare, VariantsAreMethodsUnderAnotherName) {
  CompareRecipe recipe = small_recipe();
  recipe.adapter.rank_pattern = {{"query", 4}};
  recipe.compare.variants = {{"dora", {"adapter.method=lora", "adapter.use_dora=true", "adapter.rank=4"}},
                             {"two-levels", {"adapter.method=msplora", "adapter.levels=2"}}};
  recipe.compare.settings = {{"lora", {"adapter.alpha=3"}}};
  recipe.compare.methods = {"lora", "dora", "two-levels"};
  const ComparisonPlan plan = plan_of(recipe);
  ASSERT_EQ(plan.methods.size(), 3u);
  const AdapterConfig &lora = plan.methods[0].recipe.adapter, &dora = plan.methods[1].recipe.adapter,
                      &two = plan.methods[2].recipe.adapter;
  EXPECT_FALSE(lora.use_dora);
  EXPECT_EQ(dora.method, "lora");
  EXPECT_TRUE(dora.use_dora);
  EXPECT_EQ(dora.rank_pattern.size(), 1u);
  EXPECT_EQ(dora.alpha, recipe.adapter.alpha);  // the settings are those of lora itself
  EXPECT_EQ(two.method, "msplora");
  EXPECT_EQ(two.levels, 2);
  EXPECT_TRUE(two.rank_pattern.empty());
  EXPECT_EQ(plan.methods[1].method, "dora");
  EXPECT_EQ(plan.run(plan.methods[1], 1e-3, 2).name, "dora/lr-0.001-seed-2");
  recipe.compare.methods = {"all"};
  EXPECT_EQ(plan_of(recipe).methods.size(), adapter_methods().size() + 2);
}

TEST(Compare, WhatIsWrongWithVariants) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.variants = {{"lora", {}}, {"../up", {}}, {"all", {}}, {"fine-1.0", {}}};
  ErrorList errors;
  check_recipe(recipe, errors, "recipe.yaml");
  const std::string problem = error_text([&] { errors.throw_if_any(ErrorCode::kConfig, "recipe.yaml"); });
  for (const char* part : {"variants.lora: is a name that is taken", "variants.all: is a name that is taken",
                           "variants.../up: a name has letters"}) {
    EXPECT_THAT(problem, HasSubstr(part));
  }
  EXPECT_THAT(problem, ::testing::Not(HasSubstr("fine-1.0")));
  recipe.train.seed = 7;
  check_recipe(recipe, errors, "recipe.yaml");
  EXPECT_THAT(error_text([&] { errors.throw_if_any(ErrorCode::kConfig, "recipe.yaml"); }),
              HasSubstr("train.seed"));
  recipe.compare.variants = {{"dora", {"adapter.method=lroa", "adapter.use_dora=true"}}};
  recipe.compare.methods = {"lora", "dora"};
  EXPECT_THAT(problem_of(recipe), HasSubstr("did you mean `lora`?"));
  recipe.compare.methods = {"lora", "doar"};
  EXPECT_THAT(problem_of(recipe), HasSubstr("did you mean `dora`?"));
}

TEST(Compare, ContrastsPairRunsOfOneSeed) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"lora", "none", "bitfit"};
  recipe.compare.seeds = 5;
  const std::vector<double> lora = {0.683, 0.699, 0.691, 0.694, 0.688},
                            none = {0.694, 0.701, 0.689, 0.71, 0.697};
  const RunOnce run = [&](const PlannedRun& planned) {
    RunOutcome outcome = outcome_of(planned);
    outcome.metric = "accuracy";
    outcome.is_test = true;
    if (planned.method == "bitfit" && planned.seed != 3) outcome.error = "failed";
    outcome.score = (planned.method == "none" ? none : lora)[static_cast<size_t>(planned.seed - 1)];
    for (int i = 0; i < 40; ++i)
      outcome.pairs.push_back({i < (planned.method == "none" ? 30 : 20) ? 1.0F : 0.0F, 1.0F});
    if (!outcome.error.empty()) outcome.score.reset();
    return outcome;
  };
  Comparison comparison = run_comparison(plan_of(recipe), run);
  contrast_with_reference(comparison, "lora", 200);
  EXPECT_FALSE(comparison.rows[0].contrast);
  const Contrast& contrast = comparison.rows[1].contrast.value();
  EXPECT_EQ(contrast.over_seeds.pairs, 5);
  EXPECT_NEAR(contrast.over_seeds.difference, 0.0072, 1e-12);
  EXPECT_NEAR(contrast.over_seeds.p.value(), 0.08871108737829358, 1e-12);  // SciPy's
  EXPECT_EQ(contrast.p_adjusted, contrast.over_seeds.p);                   // bitfit has no test: one run
  EXPECT_GT(contrast.over_both.value().low, 0.05);
  EXPECT_LT(contrast.over_both.value().high, 0.45);
  EXPECT_EQ(comparison.rows[2].contrast.value().over_seeds.pairs, 1);
  EXPECT_FALSE(comparison.rows[2].contrast.value().over_seeds.p);
  EXPECT_EQ(no_contrast_reason(comparison, "lora"), "");
  contrast_with_reference(comparison, "full", 200);
  for (const ComparisonRow& row : comparison.rows) EXPECT_FALSE(row.contrast);
  EXPECT_THAT(no_contrast_reason(comparison, "full"), HasSubstr("not among compare.methods"));
  for (RunOutcome& outcome : comparison.rows[0].runs) {
    outcome.error = "no memory";
    outcome.score.reset();
  }
  comparison.rows[0].mean.reset();
  summarise(comparison.rows[0], 1);
  contrast_with_reference(comparison, "lora", 200);
  EXPECT_THAT(no_contrast_reason(comparison, "lora"), HasSubstr("every run of it failed"));
  const auto json = comparison_to_json(plan_of(recipe), comparison);
  EXPECT_THAT(json["warnings"][0].get<std::string>(), HasSubstr("every run of it failed"));
}

TEST(Compare, TablesAreMadeAgainFromTheSingleRuns) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"lora", "none", "bitfit"};
  recipe.compare.lr_grid = {1e-3, 1e-2};
  recipe.compare.seeds = 3;
  const ComparisonPlan plan = plan_of(recipe);
  const RunOnce score = scored([](const PlannedRun& run) {
    return 0.5 + 0.01 * static_cast<double>(run.method.size() * run.seed % 7);
  });
  Comparison comparison = run_comparison(plan, [&](const PlannedRun& run) {
    RunOutcome outcome = score(run);
    outcome.pairs = {{1, 1}, {run.method == "none" ? 1.0F : 0.0F, 1}, {0, 0}};
    outcome.warnings = {"careful"};
    outcome.adapter_parameters = 11;
    if (run.method == "bitfit" && run.seed == 2) outcome.error = "no memory";
    return outcome;
  });
  contrast_with_reference(comparison, "lora", 100);
  const auto json = comparison_to_json(plan, comparison);
  TemporaryDirectory directory;
  write_file_atomically(directory.path() / "compare.json", json.dump());
  const SavedComparison saved = read_comparison(directory.path());
  EXPECT_EQ(comparison_to_json(saved.plan, saved.comparison).dump(1), json.dump(1));
  // Numbers of rows are not believed.
  nlohmann::ordered_json changed = json;
  changed["rows"][0]["mean"] = 0.99;
  write_file_atomically(directory.path() / "compare.json", changed.dump());
  EXPECT_EQ(read_comparison(directory.path() / "compare.json").comparison.rows[0].mean,
            comparison.rows[0].mean);
  changed.erase("rows");
  write_file_atomically(directory.path() / "compare.json", changed.dump());
  EXPECT_THAT(error_text([&] { read_comparison(directory.path()); }), HasSubstr("rows"));
}

TEST(Compare, RecipesKeepTheirMeaning) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.settings = {{"lora", {"adapter.dropout=0.1"}}};
  recipe.compare.lr_grid = {1e-3, 2e-3};
  CompareRecipe again;
  ErrorList errors;
  read_yaml(again, to_yaml(recipe), "recipe.yaml", errors);
  errors.throw_if_any(ErrorCode::kConfig, "recipe.yaml");
  EXPECT_EQ(to_json(again), to_json(recipe));
  recipe.compare.settings = {{"bitft", {}}};
  recipe.compare.methods = {"bitfit", "lora"};
  check_recipe(recipe, errors, "recipe.yaml");
  try {
    errors.throw_if_any(ErrorCode::kConfig, "recipe.yaml");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean `bitfit`?"));
  }
}

}  // namespace
}  // namespace msplora
