// Rotary angles: from the keys of config.json to frequencies, against those that transformers computes (the
// golden cases of the group `rotary`) and numbers of the published formulas.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "models/config_texts.h"
#include "msplora/core/file.h"
#include "msplora/models/model_config.h"

namespace msplora {
namespace {

using config_texts::parse;
using config_texts::refusal;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// The angles of the layers of one kind ("": there is one).
RotarySpec rotary_of(const json& config, const std::string& kind = "") {
  const Architecture a = describe(parse(config));
  return a.rotaries.at(kind == "sliding_attention" ? 1 : 0);
}

void expect_near(const std::vector<double>& got, const std::vector<double>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i] / expected[i], 1.0, 2e-6) << "pair " << i;
}

TEST(GoldenRotary, IsThatOfTransformers) {
  const std::filesystem::path group = golden_group("rotary");
  if (group.empty()) GTEST_SKIP() << "no such cases";
  const json file = json::parse(read_file(group / "cases.json"));
  for (const json& c : file.at("cases")) {
    SCOPED_TRACE(c.at("name").get<std::string>());
    GoldenCounts::compared("rotary");
    const RotarySpec spec = rotary_of(c.at("config"), c.at("kind"));
    expect_near(spec.frequencies, c.at("frequencies"));
    EXPECT_NEAR(spec.attention_factor, c.at("attention_factor").get<double>(), 1e-6);
    if (!c.contains("long_frequencies")) {
      EXPECT_TRUE(spec.long_frequencies.empty());
      continue;
    }
    expect_near(spec.long_frequencies, c.at("long_frequencies"));
    EXPECT_EQ(spec.original_length, c.at("original_length").get<int64_t>());
  }
}

json config_with_heads_of_128(const json& keys) {
  json config = json::parse(R"({"model_type": "llama", "vocab_size": 9, "hidden_size": 128,
    "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 4,
    "max_position_embeddings": 131072})");
  config.update(keys);
  return config;
}

TEST(Rotary, Llama3StretchesTheLongWavelengths) {
  const json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  const json plain = {{"rope_theta", 500000.0}};
  const auto base = rotary_of(config_with_heads_of_128(plain)).frequencies;
  json scaled = plain;
  scaled["rope_scaling"] = scaling;
  const auto got = rotary_of(config_with_heads_of_128(scaled)).frequencies;
  const std::vector<double> between = {0.828168, 0.643743, 0.493507, 0.371122, 0.271425, 0.190211};
  for (size_t i = 0; i < 64; ++i) {
    const double expected = i <= 28 ? 1.0 : i >= 35 ? 0.125 : between[i - 29];
    EXPECT_NEAR(got[i] / base[i], expected, 1e-6) << i;
  }
}

TEST(Rotary, YarnStretchesAndAmplifies) {
  const json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  const RotarySpec got =
      rotary_of(config_with_heads_of_128({{"rope_theta", 1000000.0}, {"rope_scaling", yarn}}));
  const auto base = rotary_of(config_with_heads_of_128({{"rope_theta", 1000000.0}})).frequencies;
  for (size_t i = 0; i <= 23; ++i) EXPECT_DOUBLE_EQ(got.frequencies[i], base[i]);
  for (size_t i = 40; i < 64; ++i) EXPECT_DOUBLE_EQ(got.frequencies[i], base[i] / 4);
  EXPECT_NEAR(got.frequencies[30], 1.0643610e-3, 1e-10);
  EXPECT_NEAR(got.frequencies[63], 3.1023444e-7, 1e-14);
  EXPECT_NEAR(got.attention_factor, 1.1386294, 1e-7);
}

TEST(Rotary, LongRopeHasAnglesForTextsThatBecomeLong) {
  json config =
      config_with_heads_of_128({{"model_type", "phi3"}, {"original_max_position_embeddings", 4096}});
  config["rope_scaling"] = {{"type", "longrope"},
                            {"short_factor", std::vector<double>(64, 2.0)},
                            {"long_factor", std::vector<double>(64, 8.0)}};
  const RotarySpec spec = rotary_of(config);
  EXPECT_DOUBLE_EQ(spec.of_length(4096)[0], 0.5);
  EXPECT_DOUBLE_EQ(spec.of_length(4097)[0], 0.125);
  EXPECT_NEAR(spec.attention_factor, std::sqrt(1 + std::log(32.0) / std::log(4096.0)), 1e-12);
  config["rope_scaling"]["type"] = "su";  // what older files call it
  EXPECT_EQ(rotary_of(config).long_frequencies, spec.long_frequencies);
  config["rope_scaling"]["short_factor"] = {1.0, 2.0};
  config["rope_scaling"]["long_factor"] = json(std::vector<double>(64, 0.0));
  EXPECT_THAT(refusal(config),
              AllOf(HasSubstr("rope_scaling.short_factor: expected a list of 64 positive numbers"),
                    HasSubstr("rope_scaling.long_factor")));
  config.erase("rope_scaling");
  EXPECT_DOUBLE_EQ(rotary_of(config).of_length(131072)[0], 1.0);
}

TEST(Rotary, DynamicIsAsItWasUpToTheLengthThatIsTaken) {
  const json dynamic = {{"rope_type", "dynamic"}, {"factor", 2.0}};
  EXPECT_EQ(rotary_of(config_with_heads_of_128({{"rope_scaling", dynamic}})).frequencies,
            rotary_of(config_with_heads_of_128(json::object())).frequencies);
  EXPECT_EQ(describe(parse(config_with_heads_of_128({{"rope_scaling", dynamic}}))).longest, 131072);
}

TEST(Rotary, RefusesWhatItCannotCompute) {
  const auto refused = [](const json& scaling) {
    return refusal(config_with_heads_of_128({{"rope_scaling", scaling}}));
  };
  EXPECT_THAT(refused({{"rope_type", "yarm"}, {"factor", 2.0}}),
              AllOf(HasSubstr("rope_scaling.rope_type: expected default, linear, dynamic, llama3, yarn or "
                              "longrope, found \"yarm\""),
                    HasSubstr("did you mean `yarn`?")));
  EXPECT_THAT(refused({{"rope_type", "linear"}}),
              HasSubstr("rope_scaling.factor: expected a positive number"));
  EXPECT_THAT(refused({{"rope_type", "yarn"}, {"factor", -1.0}, {"beta_fast", "x"}, {"truncate", 1}}),
              AllOf(HasSubstr("rope_scaling.factor"), HasSubstr("rope_scaling.beta_fast"),
                    HasSubstr("rope_scaling.truncate")));
  json partial = config_with_heads_of_128({{"model_type", "phi3"}, {"partial_rotary_factor", 0.01}});
  EXPECT_THAT(refusal(partial), HasSubstr("partial_rotary_factor"));
}

}  // namespace
}  // namespace msplora
