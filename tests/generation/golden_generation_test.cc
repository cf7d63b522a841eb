#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "generation/golden_options.h"
#include "golden_cases.h"
#include "msplora/core/file.h"
#include "msplora/generation/scores.h"
#include "msplora/generation/stop_strings.h"
#include "msplora/tokenizers/decode_stream.h"
#include "msplora/tokenizers/tokenizer.h"

namespace msplora {
namespace {

using generation_test::options_of;
using nlohmann::json;

json cases_in(const std::string& file) {
  const std::filesystem::path root = golden_group("generation");
  if (root.empty() || !std::filesystem::exists(root / file)) return json::array();
  return json::parse(read_file(root / file));
}

std::vector<double> numbers_of(const json& list) {
  std::vector<double> numbers;
  for (const json& one : list)
    numbers.push_back(one.is_null() ? -std::numeric_limits<double>::infinity() : one.get<double>());
  return numbers;
}

TEST(GoldenGeneration, RulesOfScores) {
  for (const json& row : cases_in("processors.json")) {
    SCOPED_TRACE(row["options"].dump() + " after " + row["ids"].dump());
    std::vector<double> scores = numbers_of(row["logits"]);
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    apply_rules(options_of(row["options"]), ids, row["prompt_length"].get<size_t>(), scores);
    const std::vector<double> expected = numbers_of(row["scores"]);
    ASSERT_EQ(scores.size(), expected.size());
    for (size_t i = 0; i < scores.size(); ++i) {
      if (std::isinf(expected[i])) {
        EXPECT_EQ(scores[i], expected[i]) << i;
      } else {
        EXPECT_NEAR(scores[i], expected[i], 1e-6) << i;  // the library's biases are float32
      }
    }
    GoldenCounts::compared("generation");
  }
}

TEST(GoldenGeneration, ProbabilitiesAndDraws) {
  for (const json& row : cases_in("sampling.json")) {
    SCOPED_TRACE(row["options"].dump());
    const std::vector<double> got =
        sampling_probabilities(options_of(row["options"]), numbers_of(row["logits"]));
    const std::vector<double> expected = numbers_of(row["probabilities"]);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-12) << i;
    for (const json& one : row["draws"])
      EXPECT_EQ(draw(got, one[0].get<double>()), one[1].get<int32_t>()) << one;
    GoldenCounts::compared("generation");
  }
}

// Ids of GPT-2's tokenizer one at a time, as they would be made.
TEST(GoldenGeneration, TextsEndAtStopStrings) {
  const json rows = cases_in("stop.json");
  if (rows.empty()) GTEST_SKIP() << "no stop.json here";
  const auto tokenizer = Tokenizer::load(golden_group("tokenizers") / "gpt2" / "tokenizer.json");
  for (const json& row : rows) {
    SCOPED_TRACE(row["stop"].dump());
    StopStrings stops(row["stop"].get<std::vector<std::string>>());
    DecodeStream stream(tokenizer);
    std::string text;
    json stopped_after;
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    for (size_t made = 0; made < ids.size() && !stops.has_stopped(); ++made) {
      text += stops.take(stream.add(ids[made]));
      if (stops.has_stopped()) stopped_after = made + 1;
    }
    if (!stops.has_stopped()) text += stops.take(stream.finish());
    if (!stops.has_stopped()) text += stops.rest();
    EXPECT_EQ(text, row["text"].get<std::string>());
    EXPECT_EQ(stopped_after, row["stops_after_tokens"]);
    EXPECT_EQ(stops.has_stopped(), row["finish_reason"] == "stop");
    GoldenCounts::compared("generation");
  }
}

}  // namespace
}  // namespace msplora
