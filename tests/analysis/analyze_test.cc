#include "msplora/analysis/analyze.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapters/file_helpers.h"
#include "analysis/inner_products.h"
#include "analysis/matrices.h"
#include "analysis/site_analysis.h"
#include "analysis/stack_analysis.h"
#include "msplora/analysis/export.h"
#include "msplora/core/option_io.h"
#include "msplora/train/recipe.h"

namespace msplora::analysis {
namespace {

using namespace msplora::testing;
using ::testing::HasSubstr;

LowRankTerm term_of(const at::Tensor& up, const at::Tensor& down, double scaling = 1.0) {
  return {down, up, scaling};
}

std::unique_ptr<Adapter> drawn(FakeModel& model, const AdapterConfig& config) {
  auto adapter = create_adapter(config, model.target(), 3);
  randomize(*adapter);
  return adapter;
}

AdapterAnalysis analysis_of(const AdapterConfig& config) {
  FakeModel model;
  return analyze(*drawn(model, config), "it", nullptr, {});
}

const StackAnalysis& stack_named(const AdapterAnalysis& analysis, const std::string& module) {
  return *std::find_if(analysis.stacks.begin(), analysis.stacks.end(),
                       [&](const StackAnalysis& stack) { return stack.module == module; });
}

/// Sets trainable tensors whose names end so.
void set_tensors(Adapter& adapter, const std::string& end, const at::Tensor& values) {
  const c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter.trainable()) {
    at::Tensor tensor = entry.tensor;
    if (entry.name.ends_with(end) && tensor.sizes() == values.sizes()) tensor.copy_(values);
  }
}

TEST(InnerProducts, AreThoseOfTheMatrices) {
  const LowRankTerm a = term_of(normal_matrix(9, 2, "a"), normal_matrix(2, 7, "b"), 1.5),
                    b = term_of(normal_matrix(9, 3, "c"), normal_matrix(3, 7, "d"), -0.5),
                    c = term_of(normal_matrix(9, 1, "e"), normal_matrix(1, 7, "f"));
  const std::vector<std::vector<LowRankTerm>> updates = {{a}, {a, b}, {}, {c, b}};
  const at::Tensor found = inner_products(updates);
  for (size_t i = 0; i < updates.size(); ++i) {
    for (size_t j = 0; j < updates.size(); ++j) {
      at::Tensor left = at::zeros({9, 7}, at::kDouble), right = left.clone();
      for (const LowRankTerm& term : updates[i]) left += term.scaling * at::mm(term.up, term.down);
      for (const LowRankTerm& term : updates[j]) right += term.scaling * at::mm(term.up, term.down);
      EXPECT_NEAR(found[static_cast<int64_t>(i)][static_cast<int64_t>(j)].item<double>(),
                  (left * right).sum().item<double>(), 1e-10);
    }
  }
}

TEST(Energies, SharesMayBeNegativeAndOwnOnesMayNot) {
  const at::Tensor up = normal_matrix(9, 2, "a"), down = normal_matrix(2, 7, "b");
  const auto energies = level_energies(inner_products({{term_of(up, down)}, {term_of(up, down, -0.5)}}));
  ASSERT_EQ(energies.size(), 2u);
  EXPECT_NEAR(energies[0].share, 2.0, 1e-12);
  EXPECT_NEAR(energies[1].share, -1.0, 1e-12);
  EXPECT_NEAR(energies[0].own, 0.8, 1e-12);
  EXPECT_NEAR(energies[1].own, 0.2, 1e-12);
}

TEST(Redundancy, IndependentGaussianFactorsLieOnTheRandomLine) {
  for (const int64_t rank : {1, 8}) {
    std::vector<std::vector<LowRankTerm>> updates;
    for (int i = 0; i < 40; ++i) {
      const std::string name = std::to_string(i);
      updates.push_back({term_of(normal_matrix(48, rank, "u" + name), normal_matrix(rank, 64, "d" + name))});
    }
    const at::Tensor inner = inner_products(updates);
    const at::Tensor norms = inner.diagonal().sqrt();
    const at::Tensor cosines = (inner / norms.unsqueeze(0) / norms.unsqueeze(1)).abs();
    const double mean = (cosines.sum().item<double>() - 40.0) / (40.0 * 39.0);
    // Of rank 1 the cosine is a product of two normal numbers, whose mean is (2 / pi) / sqrt(out in); sums of
    // many such products are normal.
    const double line = random_cosine(48, 64);
    EXPECT_GT(mean, 0.6 * line) << rank;
    EXPECT_LT(mean, 1.15 * line) << rank;
  }
}

TEST(Analyze, PublishedAndOwnerOnlyRanksOfTheLayers) {
  const auto ranks = [](const std::string& sharing) {
    AdapterConfig config = config_of("msplora");
    config.sharing = sharing;
    std::vector<int64_t> found;
    for (const SiteAnalysis& site : analysis_of(config).sites) {
      if (site.module == "query") found.push_back(static_cast<int64_t>(site.whole.values.size()));
    }
    return found;
  };
  EXPECT_EQ(ranks("published"), std::vector<int64_t>(12, 14));
  EXPECT_EQ(ranks("owner_only"), (std::vector<int64_t>{14, 2, 2, 2, 6, 2, 2, 2, 6, 2, 2, 2}));
}

TEST(Analyze, LevelsHaveTheNamesOfTheMethodAndSharedOnesAreAlike) {
  const AdapterAnalysis found = analysis_of(config_of("msplora"));
  ASSERT_EQ(found.levels.size(), 3u);
  EXPECT_EQ(found.levels[0].name, "global");
  EXPECT_EQ(found.levels[1].name, "mid");
  EXPECT_EQ(found.levels[2].name, "layer");
  EXPECT_TRUE(found.levels[0].is_shared);
  EXPECT_TRUE(found.levels[1].is_shared);
  EXPECT_FALSE(found.levels[2].is_shared);
  EXPECT_EQ(found.levels[0].parameters, 2 * 8 * 32);  // query and value, 16 to 16
  const StackAnalysis& stack = stack_named(found, "query");
  ASSERT_EQ(stack.cosines.size(), 4u);
  EXPECT_EQ(stack.cosines[1].part, "global");
  for (const double cosine : stack.cosines[1].cosines.values) EXPECT_NEAR(cosine, 1.0, 1e-12);
  EXPECT_NEAR(stack.cosines[2].cosines.at(0, 3), 1.0, 1e-12) << "one group of the mid level";
  EXPECT_LT(stack.cosines[2].cosines.at(0, 4), 0.9) << "two of them";
  EXPECT_LT(stack.cosines[3].mean_absolute, 0.3);
  EXPECT_GT(stack.cosines[0].mean_absolute, stack.cosines[3].mean_absolute) << "the shared part is the same";
}

TEST(Analyze, EqualLayersAreOneSpace) {
  FakeModel model;
  const auto adapter = drawn(model, config_of("lora"));
  set_tensors(*adapter, "lora_A.weight", normal_matrix(8, 16, "down"));
  set_tensors(*adapter, "lora_B.weight", normal_matrix(16, 8, "up"));
  const AdapterAnalysis found = analyze(*adapter, "it", nullptr, {});
  for (const StackAnalysis& stack : found.stacks) {
    EXPECT_NEAR(stack.cosines.front().mean_absolute, 1.0, 1e-12);
    EXPECT_FALSE(stack.cosines.front().is_shared);
    EXPECT_NEAR(stack.spaces.front().mean_left, 1.0, 1e-10);
    EXPECT_NEAR(stack.spaces.front().mean_right, 1.0, 1e-10);
    EXPECT_NEAR(stack.spaces.front().common_left, 1.0, 1e-10);
  }
}

TEST(Analyze, OrthogonalLevelsDoNotOverlap) {
  FakeModel model;
  const auto adapter = drawn(model, config_of("msplora"));
  const at::Tensor left = random_basis(16, 14, "left"), right = random_basis(16, 14, "right");
  int64_t begin = 0;
  for (const auto& [level, rank] : {std::pair{0, 8}, std::pair{1, 4}, std::pair{2, 2}}) {
    set_tensors(*adapter, "lora_A." + std::to_string(level) + ".weight",
                right.slice(1, begin, begin + rank).t());
    set_tensors(*adapter, "lora_B." + std::to_string(level) + ".weight", left.slice(1, begin, begin + rank));
    begin += rank;
  }
  const AdapterAnalysis found = analyze(*adapter, "it", nullptr, {});
  for (const SiteAnalysis& site : found.sites) {
    ASSERT_EQ(site.overlaps.size(), 3u);
    for (const LevelPair& pair : site.overlaps) {
      EXPECT_LT(pair.left.phi, 1e-12);
      EXPECT_LT(pair.right.phi, 1e-12);
    }
    for (const LevelPart& part : site.levels) EXPECT_NEAR(part.share, part.own, 1e-6);
  }
  const bool says_so = std::any_of(found.findings.begin(), found.findings.end(), [](const Finding& finding) {
    return finding.kind == "decoupling" && finding.text.find("as far apart as random") != std::string::npos;
  });
  EXPECT_TRUE(says_so);
}

TEST(Analyze, GramSumsAndSingularValuesAgree) {
  const AdapterAnalysis found = analysis_of(config_of("msplora"));
  for (const SiteAnalysis& site : found.sites) {
    double own = 0.0, squares = 0.0;
    for (const LevelPart& part : site.levels) own += part.spectrum.norm * part.spectrum.norm;
    for (const double value : site.whole.values) squares += value * value;
    EXPECT_NEAR(site.whole.norm * site.whole.norm, squares, 1e-10 * squares);
    for (const LevelPart& part : site.levels)
      EXPECT_NEAR(part.own, part.spectrum.norm * part.spectrum.norm / own, 1e-10);
  }
}

TEST(Analyze, AmplificationIsThatOfTheProjectedWeight) {
  FakeModel model;
  const auto adapter = drawn(model, config_of("lora"));
  const BaseWeights base{"base", model.target().sites};
  const AdapterAnalysis found = analyze(*adapter, "it", &base, {});
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < found.sites.size(); ++i) {
    const at::Tensor weight = adapter->sites()[i].linear->weight->values().to(at::kDouble);
    const Directions own = directions_of(adapter->change_of(i).weight.to(at::kDouble)).first(8);
    const double projected = at::mm(at::mm(own.left.t(), weight), own.right).norm().item<double>();
    const BaseRelation& relation = *found.sites[i].base;
    EXPECT_NEAR(relation.norm, weight.norm().item<double>(), 1e-6);
    EXPECT_NEAR(relation.projected_norm, projected, 1e-5 * projected);
    EXPECT_NEAR(relation.amplification, own.norm / projected, 1e-5 * relation.amplification);
    ASSERT_TRUE(relation.directions);
    EXPECT_EQ(relation.directions->similarity.size(), 10u);
  }
  Options narrow;
  narrow.largest_base = 8;
  const AdapterAnalysis without = analyze(*adapter, "it", &base, narrow);
  EXPECT_FALSE(without.sites.front().base->directions);
  EXPECT_THAT(without.notes.back(), HasSubstr("above 8"));
}

TEST(Analyze, AmplificationOfAChangeOfFullRankIsThatOfItsLeadingDirections) {
  FakeModel model;
  AdapterConfig config = config_of("lora");
  config.use_dora = true;
  const auto adapter = drawn(model, config);
  const BaseWeights base{"base", model.target().sites};
  Options options;
  options.top = 2;
  const AdapterAnalysis found = analyze(*adapter, "it", &base, options);
  const c10::NoGradGuard no_grad;
  const SiteAnalysis& site = found.sites.front();
  ASSERT_GT(site.whole.values.size(), 8u);
  const at::Tensor weight = adapter->sites()[0].linear->weight->values().to(at::kDouble);
  const Directions own = directions_of(adapter->change_of(0).weight.to(at::kDouble)).first(2);
  const double projected = at::mm(at::mm(own.left.t(), weight), own.right).norm().item<double>();
  EXPECT_NEAR(site.base->projected_norm, projected, 1e-4 * projected);
  EXPECT_LT(site.base->projected_norm, 0.9 * site.base->norm);
}

const Finding* finding_of(const AdapterAnalysis& analysis, const std::string& kind) {
  for (const Finding& finding : analysis.findings) {
    if (finding.kind == kind) return &finding;
  }
  return nullptr;
}

AdapterConfig config_in(const std::string& recipe) {
  Recipe whole;
  ErrorList errors;
  read_yaml(whole, recipe, "recipe.yaml", errors);
  errors.throw_if_any(ErrorCode::kConfig, "recipe.yaml");
  return whole.adapter;
}

TEST(Findings, ALevelOfZerosIsIdleAndTheRecipeLeavesItOut) {
  FakeModel model;
  AdapterConfig config = config_of("msplora");
  config.alpha = AdapterConfig().alpha;
  config.alphas = {3, 5, 7};
  config.mid_groups = 2;
  const auto adapter = drawn(model, config);
  set_tensors(*adapter, "lora_B.1.weight", at::zeros({16, 4}));
  const AdapterAnalysis found = analyze(*adapter, "it", nullptr, {});
  const Finding* idle = finding_of(found, "idle level");
  ASSERT_NE(idle, nullptr);
  EXPECT_THAT(idle->text, HasSubstr("`mid`"));
  const AdapterConfig changed = config_in(idle->recipe);
  EXPECT_EQ(changed.ranks, (std::vector<int64_t>{8, 2}));
  EXPECT_EQ(changed.alphas, (std::vector<double>{3, 7}));
  FakeModel other;
  EXPECT_EQ(create_adapter(changed, other.target(), 1)->level_names().size(), 2u) << "the recipe can be run";
}

TEST(Findings, AnAdapterThatUsesAllItHasHasNoneToSpare) {
  const AdapterAnalysis found = analysis_of(config_of("lora"));
  EXPECT_EQ(finding_of(found, "idle level"), nullptr);
  EXPECT_EQ(finding_of(found, "decoupling"), nullptr) << "there is one level";
}

TEST(Findings, SpareRanksBecomeARecipe) {
  FakeModel model;
  const auto adapter = drawn(model, config_of("lora"));
  at::Tensor up = normal_matrix(16, 8, "up");
  up.slice(1, 3).zero_();
  set_tensors(*adapter, "lora_B.weight", up);
  const AdapterAnalysis found = analyze(*adapter, "it", nullptr, {});
  const Finding* spare = finding_of(found, "spare rank");
  ASSERT_NE(spare, nullptr);
  EXPECT_THAT(spare->text, HasSubstr("3 of 8 directions of the update"));
  EXPECT_EQ(config_in(spare->recipe).rank, 3);
  EXPECT_EQ(config_in(spare->recipe).alpha, 12.0);
}

TEST(Findings, SharedLevelsAreComparedWithTheOneBesideThem) {
  const std::vector<AdapterAnalysis> both = {analysis_of(config_of("msplora")),
                                             analysis_of(config_of("lora"))};
  const std::vector<Finding> findings = findings_of(both);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].kind, "redundancy");
  EXPECT_THAT(findings[0].text, HasSubstr("no evidence"));
  EXPECT_THAT(findings[0].text, HasSubstr("(rank 2) are"));
  EXPECT_THAT(findings[0].text, HasSubstr("(rank 8): mean"));
  EXPECT_THAT(findings[0].text, HasSubstr("The ranks differ"));
  AdapterConfig like = config_of("lora");
  like.rank = 2;
  const std::vector<Finding> fair = findings_of({analysis_of(config_of("msplora")), analysis_of(like)});
  ASSERT_EQ(fair.size(), 1u);
  EXPECT_THAT(fair[0].text, ::testing::Not(HasSubstr("The ranks differ")));
}

TEST(Curves, EndWhereTheAdapterIs) {
  FakeModel model;
  const AdapterConfig config = config_of("msplora");
  const auto at = [&](int64_t step) {
    AdapterTarget target = model.target();
    target.parameters.clear();
    target.head_modules.clear();
    for (Site& site : target.sites) site.linear = nullptr;
    auto adapter = empty_adapter(config, std::move(target));
    randomize(*adapter, 0.1 * static_cast<double>(step));
    return adapter;
  };
  const Curves curves = curves_of({1, 2}, at, {});
  ASSERT_EQ(curves.levels.size(), 4u);
  EXPECT_EQ(curves.levels[0].part, "whole");
  for (const LevelCurve& curve : curves.levels) {
    EXPECT_NEAR(curve.phi_left[1], 1.0, 1e-10) << curve.part;
    // The same numbers, twice as large: the same directions.
    EXPECT_NEAR(curve.phi_left[0], 1.0, 1e-6) << curve.part;
    EXPECT_NEAR(curve.norm[1], 4.0 * curve.norm[0], 1e-4 * curve.norm[1]) << curve.part;
    EXPECT_NEAR(curve.values.at(1, 0), 4.0 * curve.values.at(0, 0), 1e-4 * curve.values.at(1, 0));
  }
}

TEST(Export, JsonAndTablesHoldTheNumbers) {
  Report report;
  report.adapters = {analysis_of(config_of("msplora"))};
  report.adapters[0].name = "a, \"b\"";
  report.adapters[0].sites[0].whole.stable_rank = NAN;
  const nlohmann::ordered_json json = to_json(report);
  EXPECT_TRUE(json["adapters"][0]["sites"][0]["whole"]["stable_rank"].is_null());
  EXPECT_EQ(json["adapters"][0]["sites"].size(), 24u);
  EXPECT_EQ(json["adapters"][0]["stacks"][0]["cosines"][0]["cosines"].size(), 12u);
  for (const auto& [name, text] : to_csv(report)) {
    EXPECT_THAT(text, HasSubstr("\"a, \"\"b\"\"\"")) << name;
    const std::string header = text.substr(0, text.find('\n'));
    const auto columns = std::count(header.begin(), header.end(), ',');
    const size_t second = text.find('\n') + 1;
    const std::string row = text.substr(second, text.find('\n', second) - second);
    if (name == "findings.csv") continue;  // whose texts have commas
    EXPECT_EQ(std::count(row.begin(), row.end(), ','), columns + 1) << name;
  }
}

}  // namespace
}  // namespace msplora::analysis
