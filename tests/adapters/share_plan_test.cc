#include "adapters/share_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "error_text.h"
#include "msplora/adapters/planning.h"

namespace msplora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Site> only(const std::vector<Site>& sites, const std::set<std::string>& modules) {
  std::vector<Site> result;
  for (const Site& site : sites) {
    if (modules.count(site.module)) result.push_back(site);
  }
  return result;
}

AdapterConfig qv(const std::string& method, int64_t rank, int64_t levels, bool llama = false) {
  AdapterConfig config;
  config.method = method;
  config.rank = rank;
  config.levels = levels;
  config.target_modules = {llama ? "q_proj" : "query", llama ? "v_proj" : "value"};
  return config;
}

TEST(CountParameters, RobertaBase) {
  const auto sites = testing::roberta_sites(12, 768);
  const ParameterCount three = count_parameters(qv("msplora", 8, 3), sites, 12);
  EXPECT_EQ(three.total, 135168);
  EXPECT_THAT(three.per_level, ElementsAre(24576, 36864, 73728));
  EXPECT_EQ(count_parameters(qv("msplora", 8, 1), sites, 12).total, 24576);
  EXPECT_EQ(count_parameters(qv("msplora", 8, 2), sites, 12).total, 172032);
  EXPECT_EQ(count_parameters(qv("msplora", 8, 4), sites, 12).total, 116736);
  EXPECT_EQ(count_parameters(qv("lora", 8, 3), sites, 12).total, 294912);
  EXPECT_EQ(count_parameters(config_for_method(qv("none", 8, 3), "none"), sites, 12).total, 0);
}

TEST(CountParameters, Llama2) {
  const auto sites = testing::llama_sites(32, 4096, 11008);
  EXPECT_EQ(count_parameters(qv("msplora", 64, 3, true), sites, 32).total, 11010048);
  EXPECT_THAT(count_parameters(qv("msplora", 64, 3, true), sites, 32).per_level,
              ElementsAre(1048576, 1572864, 8388608));
  EXPECT_EQ(count_parameters(qv("lora", 64, 3, true), sites, 32).total, 33554432);
  AdapterConfig all = qv("lora", 16, 3);
  all.target_modules = {"all-linear"};
  EXPECT_EQ(count_parameters(all, sites, 32).total, 39976960);
}

TEST(CountParameters, HeadsAreNotTargeted) {
  AdapterConfig config = qv("lora", 4, 3);
  config.target_modules = {"all-linear"};
  // Four square matrices and two of 8 x 32 in each of the two layers; classifier.dense is left out.
  EXPECT_EQ(count_parameters(config, testing::roberta_sites(2, 8), 2).total, 2 * 4 * (4 * 16 + 2 * 40));
  config.target_modules = {"dense"};
  EXPECT_EQ(count_parameters(config, testing::roberta_sites(2, 8), 2).total, 2 * 4 * (16 + 2 * 40));
}

TEST(CountParameters, Owners) {
  const auto owners = [](int64_t layers) {
    return count_parameters(qv("msplora", 8, 3, true), testing::llama_sites(layers, 64), layers).owners;
  };
  EXPECT_THAT(owners(32)[0], ElementsAre(0));
  EXPECT_THAT(owners(32)[1], ElementsAre(0, 11, 22));
  EXPECT_EQ(owners(32)[2].size(), 32u);
  EXPECT_THAT(owners(22)[1], ElementsAre(0, 8, 15));
  EXPECT_THAT(owners(10)[1], ElementsAre(0, 4, 7));
}

TEST(CountParameters, ReportsEveryProblemWithoutAModel) {
  AdapterConfig config = qv("msplora", 8, 5);
  config.alphas = {16, 16};
  config.target_modules = {"nothing"};
  const std::string text = error_text([&] { count_parameters(config, testing::roberta_sites(2, 8), 2); });
  EXPECT_THAT(text, HasSubstr("3 problems"));
  EXPECT_THAT(text, HasSubstr("rank 8 halves into 4 levels (8, 4, 2, 1), but 5 are asked for"));
  EXPECT_THAT(text, HasSubstr("adapter.alphas: has 2 entries, but there are 4 levels"));
  EXPECT_THAT(text, HasSubstr("`nothing` matches no linear layer"));
}

TEST(SharePlan, FewerLayersThanGroups) {
  const auto sites = only(testing::llama_sites(2, 8), {"q_proj"});
  const auto plan = detail::pyramid_plan(sites, 2, 3, 3);
  EXPECT_THAT(plan.owner_layers(sites)[0], ElementsAre(0));
  EXPECT_THAT(plan.owner_layers(sites)[1], ElementsAre(0, 1));
  const auto one = only(testing::llama_sites(1, 8), {"q_proj"});
  EXPECT_EQ(detail::pyramid_plan(one, 1, 3, 3).groups.size(), 3u);
  // As many groups as there are numbers behave as one group per layer.
  EXPECT_EQ(detail::pyramid_plan(sites, 2, 3, INT64_MAX).groups.size(), 5u);
}

TEST(SharePlan, GroupsOfLayersMayBeGiven) {
  const auto sites = only(testing::llama_sites(6, 8), {"q_proj"});
  const auto plan = detail::pyramid_plan(sites, 6, 3, 3, {7, 0, 7, 0, 2, 7});
  EXPECT_THAT(plan.owner_layers(sites)[1], ElementsAre(0, 1, 4));
  const auto mid = [&](size_t site) { return plan.group_of[site][1]; };
  EXPECT_EQ(mid(0), mid(2));
  EXPECT_EQ(mid(0), mid(5));
  EXPECT_EQ(mid(1), mid(3));
  EXPECT_NE(mid(0), mid(1));
  EXPECT_NE(mid(3), mid(4));
}

TEST(SharePlan, NamesShapesAndStacksDoNotMix) {
  const auto layers = [](const std::string& stack, const std::string& name, int64_t in) {
    std::vector<Site> sites;
    for (int64_t l = 0; l < 4; ++l) {
      sites.push_back({stack + "." + std::to_string(l) + "." + name, name, l, l < 2 ? 8 : in, 8, nullptr});
    }
    return sites;
  };
  std::vector<Site> sites;
  for (const auto& part :
       {layers("encoder.block", "q", 8), layers("decoder.block", "q", 8), layers("encoder.block", "v", 16)})
    sites.insert(sites.end(), part.begin(), part.end());
  const auto plan = detail::pyramid_plan(sites, 4, 2, 3);
  size_t global = 0;
  for (const auto& group : plan.groups) global += group.level == 0;
  EXPECT_EQ(global, 4u);  // encoder q, decoder q, encoder v of input 8, encoder v of input 16
  EXPECT_EQ(plan.group_of[0][0], plan.group_of[3][0]);
  EXPECT_NE(plan.group_of[0][0], plan.group_of[4][0]);
  EXPECT_NE(plan.group_of[9][0], plan.group_of[10][0]);
}

TEST(SharePlan, ModulesOfOneNameInOneBlockStayApart) {
  const auto sites = only(testing::roberta_sites(4, 8, 8), {"dense"});
  const auto plan = detail::pyramid_plan(sites, 4, 1, 3);
  // attention.output.dense, intermediate.dense, output.dense, and the two layers of no block.
  EXPECT_EQ(plan.groups.size(), 4u);
}

TEST(SharePlan, OwnerIsTheSmallestTargetedLayer) {
  std::vector<Site> sites;
  for (const Site& site : only(testing::llama_sites(12, 8), {"q_proj"})) {
    if (site.layer == 2 || site.layer == 3 || site.layer >= 6) sites.push_back(site);
  }
  const auto owners = detail::pyramid_plan(sites, 12, 3, 3).owner_layers(sites);
  EXPECT_THAT(owners[0], ElementsAre(2));
  EXPECT_THAT(owners[1], ElementsAre(2, 6, 8));
}

}  // namespace
}  // namespace msplora
