#include "adapters/glora_search.h"

#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "adapters/file_helpers.h"
#include "error_text.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using detail::Choices;
using detail::SearchOptions;
using detail::SearchResult;
using detail::SiteChoice;
using detail::SiteSpace;
using detail::Support;
using testing::FakeModel;
using ::testing::HasSubstr;

SearchOptions small_search() {
  SearchOptions options;
  options.population = 12;
  options.generations = 6;
  options.parents = 4;
  options.max_parameters = 900;
  options.seed = 5;
  return options;
}

std::vector<SiteSpace> spaces() {
  std::vector<SiteSpace> result;
  for (int i = 0; i < 6; ++i) result.push_back(detail::site_space(16, 24, 3, i != 2, false));
  return result;
}

/// Larger A and smaller B are better, plus something for every vector.
double score_of(const Choices& choices) {
  double score = 0.0;
  for (const SiteChoice& choice : choices) {
    score += static_cast<double>(choice[detail::kA]) - static_cast<double>(choice[detail::kB]);
    for (const Support support : choice) score += support == Support::kVector ? 0.3 : 0.0;
  }
  return score;
}

TEST(GloraSearch, ImprovesWithinTheBudgetAndScoresNothingTwice) {
  std::set<Choices> seen;
  int64_t scored = 0;
  const auto all = spaces();
  const SearchOptions options = small_search();
  const SearchResult result = detail::evolve(all, options, [&](const Choices& choices) {
    EXPECT_LE(detail::parameters_of(all, choices), options.max_parameters);
    EXPECT_EQ(choices[2][detail::kD], Support::kNone);
    EXPECT_TRUE(seen.insert(choices).second);
    ++scored;
    return score_of(choices);
  });
  EXPECT_EQ(result.evaluations, scored);
  EXPECT_EQ(scored, 12 * 7);
  ASSERT_EQ(result.history.size(), 7u);
  for (size_t i = 1; i < 7; ++i) EXPECT_GE(result.history[i].score, result.history[i - 1].score);
  EXPECT_GT(result.best.score, result.history.front().score);
  EXPECT_EQ(result.best.score, score_of(result.best.choices));
  EXPECT_EQ(result.best.parameters, detail::parameters_of(all, result.best.choices));
}

/// With one parent a crossover is the parent again, so that only mutation makes new candidates out of it,
/// each choice drawn anew with the probability. Random ones fill the other half up.
TEST(GloraSearch, MutantsDifferFromTheirParentInAFewChoices) {
  std::vector<SiteSpace> all;
  for (int i = 0; i < 20; ++i) all.push_back(detail::site_space(16, 24, 3, true, false));  // 100 choices
  SearchOptions options;
  options.population = 200;
  options.generations = 1;
  options.parents = 1;
  options.mutation_probability = 0.2;
  options.max_parameters = 1000000;
  options.seed = 5;
  std::vector<Choices> scored;
  const auto score = [&](const Choices& choices) {
    scored.push_back(choices);
    return scored.size() == 1 ? 1.0 : 0.0;  // the first one is the parent
  };
  detail::evolve(all, options, score);
  ASSERT_EQ(scored.size(), 400u);
  const auto changes = [&](const Choices& choices) {
    int64_t count = 0;
    for (size_t site = 0; site < choices.size(); ++site) {
      for (size_t k = 0; k < 5; ++k) count += choices[site][k] != scored[0][site][k];
    }
    return static_cast<double>(count);
  };
  // A choice of 4 (3) forms drawn anew with probability 0.2 changes in 3/4 (2/3) of the cases: 20 * 0.2 *
  // (2 * 3/4 + 3 * 2/3) = 14 of 100; a random candidate differs in 70.
  double mutants = 0.0, random = 0.0;
  for (size_t i = 0; i < 100; ++i) {
    mutants += changes(scored[200 + i]) / 100.0;
    random += changes(scored[300 + i]) / 100.0;
  }
  EXPECT_NEAR(mutants, 14.0, 1.5);
  EXPECT_NEAR(random, 70.0, 2.0);
}

/// A crossover has each choice from one of two parents.
TEST(GloraSearch, CrossoversMixTheirParents) {
  std::vector<SiteSpace> all;
  for (int i = 0; i < 20; ++i) all.push_back(detail::site_space(16, 24, 3, true, false));
  SearchOptions options;
  options.population = 200;
  options.generations = 1;
  options.parents = 2;
  options.mutation_probability = 0.0;  // mutants are parents again, and not taken
  options.max_parameters = 1000000;
  options.seed = 5;
  std::vector<Choices> scored;
  const auto score = [&](const Choices& choices) {
    scored.push_back(choices);
    return scored.size() <= 2 ? 1.0 : 0.0;
  };
  detail::evolve(all, options, score);
  int64_t mixed = 0, from_first = 0, places = 0;
  for (size_t i = 200; i < scored.size(); ++i) {
    bool is_mixed = true;
    int64_t first = 0, different = 0;
    for (size_t site = 0; site < all.size(); ++site) {
      for (size_t k = 0; k < 5; ++k) {
        const Support one = scored[0][site][k], two = scored[1][site][k], found = scored[i][site][k];
        is_mixed = is_mixed && (found == one || found == two);
        different += one != two;
        first += one != two && found == one;
      }
    }
    if (!is_mixed) continue;
    ++mixed;
    from_first += first;
    places += different;
  }
  EXPECT_GE(mixed, 80);
  EXPECT_NEAR(static_cast<double>(from_first) / static_cast<double>(places), 0.5, 0.05);
}

TEST(GloraSearch, SameSeedSameHistory) {
  const auto history = [](uint64_t seed) {
    SearchOptions options = small_search();
    options.seed = seed;
    std::vector<Choices> choices;
    const SearchResult result = detail::evolve(spaces(), options, score_of);
    for (const detail::Candidate& best : result.history) choices.push_back(best.choices);
    return choices;
  };
  EXPECT_EQ(history(5), history(5));
  EXPECT_NE(history(5), history(6));
}

TEST(GloraSearch, TightBudgetsAreMetAndImpossibleOnesRefused) {
  SearchOptions options = small_search();
  for (const int64_t budget : {0, 1, 30, 100}) {
    options.max_parameters = budget;
    EXPECT_LE(detail::evolve(spaces(), options, score_of).best.parameters, budget);
  }
  options.max_parameters = 2000;
  options.min_parameters = 1500;
  EXPECT_GE(detail::evolve(spaces(), options, score_of).best.parameters, 1500);
  options.max_parameters = options.min_parameters = 1999999;
  EXPECT_THAT(error_text([&] { detail::evolve(spaces(), options, score_of); }),
              HasSubstr("no choice of supports has from 1999999 to 1999999 parameters"));
}

TEST(GloraSearch, OfEqualScoresTheSmallerWinsAndNanLoses) {
  SearchOptions options = small_search();
  options.generations = 0;
  std::vector<int64_t> sizes;
  const auto all = spaces();
  const SearchResult result = detail::evolve(all, options, [&](const Choices& choices) {
    sizes.push_back(detail::parameters_of(all, choices));
    return sizes.size() == 1 ? std::nan("") : 1.0;
  });
  EXPECT_EQ(result.best.parameters, *std::min_element(sizes.begin() + 1, sizes.end()));
}

TEST(GloraSearch, TheBestChoicesStayAndAreStored) {
  AdapterConfig config;
  config.method = "glora";
  config.target_modules = {"query", "value"};
  config.rank = 3;
  FakeModel model;
  const auto created = create_adapter(config, model.target(), 1);
  Adapter& adapter = *created;
  testing::randomize(adapter, 0.4);
  EXPECT_TRUE(adapter.state().facts.is_null());
  std::vector<std::string> said;
  const auto score = [&] { return -adapter.change_of(0).weight.abs().sum().item<double>(); };
  const auto report = adapter.search()->run(score, [&](const std::string& text) { said.push_back(text); });
  EXPECT_EQ(said.size(), 21u);
  EXPECT_EQ(score(), report["score"].get<double>());
  EXPECT_LE(report["parameters"].get<int64_t>(), 1000000);
  TemporaryDirectory directory;
  save_native_adapter(adapter, directory.path());
  FakeModel other;
  const auto loaded = load_adapter(directory.path(), other.target());
  EXPECT_EQ(loaded->state().facts, adapter.state().facts);
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    EXPECT_TRUE(at::equal(loaded->change_of(i).weight, adapter.change_of(i).weight));
  }
  testing::rewrite_json(directory.path() / "adapter.json", [](nlohmann::json& file) {
    file["state"]["choices"].begin().value()["A"] = "matrix";
  });
  FakeModel third;
  EXPECT_THAT(error_text([&] { load_adapter(directory.path(), third.target()); }),
              HasSubstr("is no form that this support can have"));
}

}  // namespace
}  // namespace msplora
