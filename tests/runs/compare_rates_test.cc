#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "runs/comparison_fixture.h"

namespace msplora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Compare, RatesAreChosenByValidationWithSeedOne) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.lr_grid = {1e-2, 1e-3, 1e-4};
  recipe.compare.seeds = 3;
  std::vector<std::string> order;
  const auto validation = [](const PlannedRun& run) {
    if (run.method == "none") return 0.5;  // equal everywhere: the smallest rate
    return (run.lr == 1e-3 ? 0.9 : 0.6) + 0.01 * static_cast<double>(run.seed);
  };
  const Comparison comparison = run_comparison(plan_of(recipe), scored(validation, &order));
  EXPECT_THAT(order, ElementsAre("lora/lr-0.0001-seed-1", "lora/lr-0.001-seed-1", "lora/lr-0.01-seed-1",
                                 "none/lr-0.0001-seed-1", "none/lr-0.001-seed-1", "none/lr-0.01-seed-1",
                                 "lora/lr-0.001-seed-2", "none/lr-0.0001-seed-2", "lora/lr-0.001-seed-3",
                                 "none/lr-0.0001-seed-3"));
  ASSERT_EQ(comparison.rows.size(), 2u);
  const ComparisonRow& lora = comparison.rows[0];
  EXPECT_EQ(lora.lr, 1e-3);
  EXPECT_EQ(comparison.rows[1].lr, 1e-4);
  ASSERT_EQ(lora.runs.size(), 3u);
  EXPECT_EQ(lora.runs[0].seed, 1);
  // Test scores are 0.09, 0.08 and 0.07.
  EXPECT_NEAR(lora.mean.value(), 0.08, 1e-12);
  EXPECT_NEAR(lora.deviation.value(), 0.01, 1e-12);
  EXPECT_NEAR(lora.validation.value(), 0.92, 1e-12);
  EXPECT_DOUBLE_EQ(lora.seconds, 2.0);
  EXPECT_EQ(comparison.grid.size(), 6u);
  EXPECT_TRUE(comparison.is_test);
}

TEST(Compare, SmallerIsBetterForLosses) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"lora"};
  recipe.compare.lr_grid = {1e-3, 1e-2};
  recipe.compare.seeds = 1;
  const RunOnce losses = [](const PlannedRun& run) {
    RunOutcome outcome = scored([](const PlannedRun& r) { return r.lr == 1e-2 ? 0.2 : 0.7; })(run);
    outcome.metric = "loss";
    return outcome;
  };
  const Comparison comparison = run_comparison(plan_of(recipe), losses);
  EXPECT_EQ(comparison.rows[0].lr, 1e-2);
  EXPECT_FALSE(comparison.rows[0].deviation.has_value());
}

// Lora's grid grows once, none fails at every rate: planned are then no more and no fewer runs than come.
TEST(Compare, RunsToComeAreKnownAsFarAsTheyCanBe) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.lr_grid = {1e-4, 1e-3, 1e-2};
  recipe.compare.lr_grid_extensions = 1;
  recipe.compare.seeds = 3;
  const RunOnce run_once = [](const PlannedRun& run) {
    RunOutcome outcome = scored([](const PlannedRun& r) { return r.lr; })(run);
    if (run.method == "none") outcome.error = "out of memory";
    return outcome;
  };
  std::vector<size_t> planned;
  const ComparisonPlan plan = plan_of(recipe);
  run_comparison(plan, run_once, [&](const Comparison& now, const RunOutcome&) {
    planned.push_back(planned_runs(plan, now));
  });
  EXPECT_THAT(planned, ElementsAre(10, 10, 11, 11, 11, 11, 9, 9, 9));
}

TEST(Compare, WithoutValidationNoRateIsChosen) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"lora"};
  recipe.compare.lr_grid = {1e-3, 1e-2};
  const RunOnce blind = [](const PlannedRun& run) {
    RunOutcome outcome = scored([](const PlannedRun&) { return 0.5; })(run);
    outcome.validation.reset();
    return outcome;
  };
  const Comparison comparison = run_comparison(plan_of(recipe), blind);
  EXPECT_FALSE(comparison.rows[0].lr.has_value());
  EXPECT_THAT(comparison.grid[0].error, HasSubstr("validation"));
}

TEST(Compare, RatesAtTheEdgeOfTheGridAreTold) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.lr_grid = {1e-4, 1e-3, 1e-2};
  const Comparison comparison = run_comparison(plan_of(recipe), scored([](const PlannedRun& run) {
                                                 if (run.method == "none") return run.lr == 1e-3 ? 0.9 : 0.5;
                                                 return run.lr == 1e-2 ? 0.9 : 0.5;
                                               }));
  EXPECT_TRUE(comparison.rows[0].is_at_edge);
  EXPECT_FALSE(comparison.rows[1].is_at_edge);
}

TEST(Compare, AGridGrowsWhileItsOutermostRateIsTheBest) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.lr_grid = {3e-4, 1e-3, 3e-3};
  recipe.compare.lr_grid_extensions = 5;
  std::vector<std::string> order;
  const auto best_near = [](const PlannedRun& run) {
    if (run.method == "none") return 0.5;  // its rate changes nothing: nothing lies beyond
    return 1.0 - 0.1 * std::abs(std::log10(run.lr / 0.03));
  };
  const Comparison comparison = run_comparison(plan_of(recipe), scored(best_near, &order));
  EXPECT_THAT(std::vector(order.begin(), order.begin() + 9),
              ElementsAre("lora/lr-0.0003-seed-1", "lora/lr-0.001-seed-1", "lora/lr-0.003-seed-1",
                          "lora/lr-0.01-seed-1", "lora/lr-0.03-seed-1", "lora/lr-0.1-seed-1",
                          "none/lr-0.0003-seed-1", "none/lr-0.001-seed-1", "none/lr-0.003-seed-1"));
  EXPECT_EQ(comparison.rows[0].lr, 0.03);
  EXPECT_FALSE(comparison.rows[0].is_at_edge);
  EXPECT_FALSE(comparison.rows[1].is_at_edge);

  recipe.compare.lr_grid_extensions = 1;  // too few
  EXPECT_TRUE(run_comparison(plan_of(recipe), scored(best_near)).rows[0].is_at_edge);
}

TEST(Compare, SeveralSeedsMayChooseTheRate) {
  CompareRecipe recipe = small_recipe();
  recipe.compare.methods = {"lora"};
  recipe.compare.lr_grid = {1e-4, 1e-3, 1e-2};
  recipe.compare.lr_seeds = 2;
  recipe.compare.seeds = 3;
  std::vector<std::string> order;
  const auto lucky_once = [](const PlannedRun& run) {
    if (run.lr == 1e-2) return run.seed == 1 ? 0.95 : 0.5;  // diverges with the next seed
    return run.lr == 1e-3 ? 0.8 : 0.7;
  };
  const Comparison comparison = run_comparison(plan_of(recipe), scored(lucky_once, &order));
  EXPECT_THAT(order, ElementsAre("lora/lr-0.0001-seed-1", "lora/lr-0.0001-seed-2", "lora/lr-0.001-seed-1",
                                 "lora/lr-0.001-seed-2", "lora/lr-0.01-seed-1", "lora/lr-0.01-seed-2",
                                 "lora/lr-0.001-seed-3"));
  EXPECT_EQ(comparison.rows[0].lr, 1e-3);
  EXPECT_EQ(comparison.rows[0].runs.size(), 3u);
}

TEST(Compare, RatesBeyondAGridFollowItsPattern) {
  EXPECT_EQ(rate_beyond({1e-4, 3e-4, 1e-3}, /*above=*/true), 3e-3);
  EXPECT_EQ(rate_beyond({1e-4, 3e-4, 1e-3}, /*above=*/false), 3e-5);
  EXPECT_EQ(rate_beyond({3e-4, 1e-3, 3e-3}, /*above=*/true), 1e-2);
  EXPECT_EQ(rate_beyond({1e-3, 2e-3}, /*above=*/true), 4e-3);
  EXPECT_EQ(rate_beyond({1e-3, 2e-3}, /*above=*/false), 5e-4);
  EXPECT_FALSE(rate_beyond({1e-3}, /*above=*/true));
}

}  // namespace
}  // namespace msplora
