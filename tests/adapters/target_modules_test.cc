#include "adapters/target_modules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "error_text.h"

namespace msplora {
namespace {

using detail::Strictness;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kQ0 = "model.layers.0.self_attn.q_proj";

Site site(const std::string& path) {
  return {path, path.substr(path.rfind('.') + 1), 0, 8, 8, nullptr};
}

/// Whether PEFT's rules, as the library applies them, select the single module `path`.
bool selects(const AdapterConfig& config, const std::string& path) {
  ErrorList errors;
  return !detail::match_targets(config, {site(path)}, {}, Strictness::kLenient, errors).empty();
}

AdapterConfig list(std::vector<std::string> names) {
  AdapterConfig config;
  config.target_modules = std::move(names);
  return config;
}

AdapterConfig regex(const std::string& pattern) {
  AdapterConfig config;
  config.target_modules_regex = pattern;
  return config;
}

AdapterConfig with_layers(AdapterConfig config, std::vector<int64_t> layers,
                          std::vector<std::string> pattern = {}) {
  config.layers_to_transform = std::move(layers);
  config.layers_pattern = std::move(pattern);
  return config;
}

// Outcomes recorded from PEFT's own matching function.
TEST(TargetModules, PeftGoldenTable) {
  EXPECT_TRUE(selects(list({"q_proj"}), kQ0));
  EXPECT_FALSE(selects(list({"q_proj"}), "model.layers.0.self_attn.xq_proj"));
  EXPECT_FALSE(selects(regex("q_proj"), kQ0));
  EXPECT_TRUE(selects(regex(R"(.*\.(q|v)_proj)"), kQ0));
  EXPECT_TRUE(selects(list({"dense"}), "roberta.encoder.layer.3.intermediate.dense"));
  EXPECT_TRUE(selects(list({"attention.output.dense"}), "roberta.encoder.layer.3.attention.output.dense"));
  AdapterConfig saved = list({"dense"});
  saved.modules_to_save = {"classifier"};
  EXPECT_FALSE(selects(saved, "classifier.dense"));
  EXPECT_FALSE(selects(with_layers(list({"q_proj"}), {1}), kQ0));
  EXPECT_TRUE(selects(with_layers(list({"q_proj"}), {}), kQ0));
  EXPECT_TRUE(selects(with_layers(list({kQ0}), {5}), kQ0));
  EXPECT_FALSE(selects(with_layers(list({"w1"}), {0}), "model.layers.1.mlp.experts.0.w1"));
  EXPECT_TRUE(selects(with_layers(list({"w1"}), {1}), "model.layers.1.mlp.experts.0.w1"));
  EXPECT_FALSE(selects(with_layers(list({"q_proj"}), {0}), "layers.0.q_proj"));
}

TEST(TargetModules, LayersPatternNamesTheContainer) {
  const std::string path = "stage.2.model.layers.5.q_proj";
  EXPECT_TRUE(selects(with_layers(list({"q_proj"}), {5}, {"layers"}), path));
  EXPECT_FALSE(selects(with_layers(list({"q_proj"}), {2}, {"layers"}), path));
  // The first pattern that matches decides.
  EXPECT_TRUE(selects(with_layers(list({"q_proj"}), {5}, {"blocks", "layers"}), path));
}

TEST(TargetModules, ExclusionWins) {
  AdapterConfig config = list({"q_proj"});
  config.exclude_modules = {"self_attn.q_proj"};
  EXPECT_FALSE(selects(config, kQ0));
  config.exclude_modules = {"attn.q_proj"};
  EXPECT_TRUE(selects(config, kQ0));
  config.exclude_modules_regex = R"(.*layers\.0\..*)";
  EXPECT_FALSE(selects(config, kQ0));
  config = list({"q_proj"});
  config.modules_to_save = {"layers.0"};
  EXPECT_FALSE(selects(config, kQ0));
  config.modules_to_save = {"ayers.0"};
  EXPECT_TRUE(selects(config, kQ0));
}

TEST(TargetModules, Patterns) {
  EXPECT_TRUE(detail::matches_pattern("q_proj", kQ0));
  EXPECT_FALSE(detail::matches_pattern("proj", kQ0));
  EXPECT_TRUE(detail::matches_pattern("^model.layers.0.self_attn.q_proj", kQ0));
  EXPECT_FALSE(detail::matches_pattern("^layers.0.self_attn.q_proj", kQ0));
  EXPECT_FALSE(detail::matches_pattern("layers.0.self_attn.q_proj", "model.layers.10.self_attn.q_proj"));
  const std::vector<std::pair<std::string, int64_t>> patterns = {{"q_proj", 4}, {R"(.*\.0\..*)", 2}};
  EXPECT_EQ(detail::pattern_value(patterns, kQ0, int64_t{8}), 4);
  EXPECT_EQ(detail::pattern_value(patterns, "model.layers.0.self_attn.v_proj", int64_t{8}), 2);
  EXPECT_EQ(detail::pattern_value(patterns, "model.layers.1.self_attn.v_proj", int64_t{8}), 8);
}

TEST(TargetModules, AllLinearTakesBlocksAndNoHeads) {
  ErrorList errors;
  const auto sites = testing::roberta_sites(2, 8);
  EXPECT_EQ(
      detail::match_targets(list({"ALL-linear"}), sites, {"classifier"}, Strictness::kStrict, errors).size(),
      12u);
  auto decoder = testing::llama_sites(2, 16);
  decoder.push_back(site("lm_head"));
  decoder.back().role = LinearRole::kOutput;
  EXPECT_EQ(detail::match_targets(list({"all-linear"}), decoder, {}, Strictness::kStrict, errors).size(),
            14u);
  EXPECT_TRUE(errors.empty());
  // Unlike PEFT's, ours combines with layers_to_transform.
  EXPECT_EQ(
      detail::match_targets(with_layers(list({"all-linear"}), {1}), decoder, {}, Strictness::kStrict, errors)
          .size(),
      7u);
}

std::string problems(const AdapterConfig& config, const std::vector<Site>& sites,
                     Strictness strictness = Strictness::kStrict) {
  return error_text([&] {
    ErrorList errors;
    detail::match_targets(config, sites, {"classifier"}, strictness, errors);
    errors.throw_if_any(ErrorCode::kConfig, "adapter");
  });
}

TEST(TargetModules, NothingMatchedListsWhatExists) {
  const std::string text = problems(list({"querry", "vallue"}), testing::roberta_sites(12, 768));
  EXPECT_THAT(text, HasSubstr("adapter.target_modules"));
  EXPECT_THAT(text, HasSubstr("`querry`, `vallue` match no linear layer"));
  EXPECT_THAT(text, HasSubstr("query [768, 768] x12"));
  EXPECT_THAT(text, HasSubstr("dense [3072, 768] x12"));
  EXPECT_THAT(text, HasSubstr("dense [768, 3072] x12"));
  EXPECT_THAT(text, HasSubstr("nearest to `querry` is `query`"));
  EXPECT_THAT(text, HasSubstr("nearest to `vallue` is `value`"));
}

TEST(TargetModules, OneEntryThatMatchesNothingIsAnError) {
  const auto sites = testing::roberta_sites(2, 8);
  const std::string text = problems(list({"query", "attention.output.dens"}), sites);
  EXPECT_THAT(text, HasSubstr("`attention.output.dens` matches no linear layer"));
  EXPECT_THAT(text, HasSubstr("is `attention.output.dense`"));
  EXPECT_THAT(text, Not(HasSubstr("`query` match")));
  EXPECT_EQ(problems(list({"query", "attention.output.dens"}), sites, Strictness::kLenient), "no error");
}

TEST(TargetModules, SaysWhyMatchingModulesAreLeftOut) {
  const auto sites = testing::roberta_sites(2, 8);
  EXPECT_THAT(problems(list({"query", "out_proj"}), sites),
              HasSubstr("`out_proj` fits 1 module, but none is left: "
                        "classifier.out_proj is part of a head"));
  AdapterConfig config = list({"query", "value"});
  config.exclude_modules = {"value"};
  EXPECT_THAT(problems(config, sites), HasSubstr("excluded by exclude_modules"));
}

TEST(TargetModules, ContradictoryAndUnusedOptions) {
  const auto sites = testing::roberta_sites(2, 8);
  EXPECT_THAT(problems(with_layers(regex(".*query"), {0}), sites), HasSubstr("adapter.layers_to_transform"));
  EXPECT_THAT(problems(with_layers(list({"query"}), {}, {"layer"}), sites),
              HasSubstr("adapter.layers_pattern"));
  EXPECT_THAT(problems(with_layers(list({"query"}), {0, 2}), sites),
              HasSubstr("no layer 2: the model has layers 0 to 1"));
  EXPECT_THAT(problems(regex("(unclosed"), sites), HasSubstr("is no regular expression"));
  EXPECT_THAT(problems(regex("(a+)+(b+)+(c+)+x"), sites), HasSubstr("matches no linear layer"));
  EXPECT_THAT(problems(list({}), sites), HasSubstr("names no module"));
  EXPECT_THAT(problems(list({"all-linear", "query"}), sites), HasSubstr("must be the only entry"));
  AdapterConfig config = list({"query"});
  config.exclude_modules = {"keyy"};
  EXPECT_THAT(problems(config, sites), HasSubstr("did you mean `key`?"));
  EXPECT_THAT(problems(list({"query"}), {}), HasSubstr("no linear layer at all"));
}

TEST(TargetModules, OrderIsThatOfTheModel) {
  ErrorList errors;
  std::vector<std::string> paths;
  for (const Site& s : detail::match_targets(list({"value", "query"}), testing::roberta_sites(2, 8), {},
                                             Strictness::kStrict, errors))
    paths.push_back(s.path.substr(22));
  EXPECT_THAT(paths, ElementsAre("0.attention.self.query", "0.attention.self.value", "1.attention.self.query",
                                 "1.attention.self.value"));
}

}  // namespace
}  // namespace msplora
