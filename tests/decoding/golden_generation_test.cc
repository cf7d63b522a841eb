// Texts that real transformers made with tiny models, greedy and with beams, written alone and together.
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "generation/golden_options.h"
#include "golden_cases.h"
#include "msplora/core/file.h"
#include "msplora/decoding/generator.h"
#include "msplora/models/model.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using generation_test::options_of;
using nlohmann::json;
using Text = std::vector<int32_t>;

std::vector<std::string> models() {
  std::vector<std::string> names;
  const fs::path root = golden_group("generation");
  if (root.empty()) return names;
  for (const auto& entry : fs::directory_iterator(root)) {
    if (fs::exists(entry.path() / "expected.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class GoldenTexts : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const fs::path folder = golden_group("generation") / GetParam();
    expected_ = json::parse(read_file(folder / "expected.json"));
    ModelLoadOptions options;
    options.task = ModelTask::kCausalLm;
    model_ = load_model(folder, options);
  }

  /// The scores behind the last token of each text.
  std::vector<std::vector<double>> scores_of(const std::vector<Text>& texts) const {
    const c10::NoGradGuard no_grad;
    PackedInput input;
    std::vector<int64_t> ids, rows;
    input.cu_seqlens = {0};
    for (const Text& text : texts) {
      ids.insert(ids.end(), text.begin(), text.end());
      rows.push_back(static_cast<int64_t>(ids.size()) - 1);
      input.cu_seqlens.push_back(static_cast<int32_t>(ids.size()));
    }
    input.input_ids = at::tensor(ids, at::kLong);
    input.output_rows = at::tensor(rows, at::kLong);
    const at::Tensor logits = model_->forward(input, {}).to(at::kDouble).contiguous();
    std::vector<std::vector<double>> scores;
    for (int64_t i = 0; i < logits.size(0); ++i) {
      const double* row = logits.data_ptr<double>() + i * logits.size(1);
      scores.emplace_back(row, row + logits.size(1));
    }
    return scores;
  }

  GenerationRequest request(const json& prompt, const GenerationOptions& options) const {
    GenerationRequest made;
    const json& ids = prompt.is_array() ? prompt : expected_["prompts"][prompt.get<size_t>()];
    made.prompt_ids = ids.get<Text>();
    made.options = options;
    return made;
  }

  json expected_;
  std::unique_ptr<Model> model_;
};

TEST_P(GoldenTexts, ScoresOfThePrompts) {
  const auto scores = scores_of(expected_["prompts"].get<std::vector<Text>>());
  const auto wanted = expected_["prompt_logits"].get<std::vector<std::vector<double>>>();
  ASSERT_EQ(scores.size(), wanted.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    double largest = 0.0, error = 0.0;
    for (size_t k = 0; k < wanted[i].size(); ++k) {
      largest = std::max(largest, std::abs(wanted[i][k]));
      error = std::max(error, std::abs(wanted[i][k] - scores[i][k]));
    }
    EXPECT_LT(error, 1e-5 * largest) << i;
  }
}

TEST_P(GoldenTexts, GreedyTexts) {
  Generator alone(*model_, nullptr);
  GeneratorOptions small;
  small.max_batch = 4;       // the other two come when one of these has ended
  small.prefill_tokens = 5;  // prompts are read in parts
  Generator together(*model_, nullptr, {}, small);
  for (const json& one : expected_["cases"]) {
    SCOPED_TRACE(one["name"]);
    if (one["smallest_gap"].get<double>() < 1e-4) continue;  // rounding may choose otherwise
    const auto wanted = one["outputs"].get<std::vector<Text>>();
    std::vector<GenerationRequest> requests;
    for (const json& prompt : expected_["prompts"])
      requests.push_back(request(prompt, options_of(one["options"])));
    const std::vector<Generation> made = together.generate(requests);
    ASSERT_EQ(made.size(), wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(made[i].tokens, wanted[i]) << i;
      EXPECT_EQ(alone.generate(requests[i]).tokens, wanted[i]) << i << ", alone";
    }
    GoldenCounts::compared("generation");
  }
}

TEST_P(GoldenTexts, LogprobsOfGreedyTexts) {
  Generator generator(*model_, nullptr);
  const auto& greedy = expected_["cases"].front();
  ASSERT_EQ(greedy["name"], "greedy");
  for (size_t i = 0; i < expected_["prompts"].size(); ++i) {
    GenerationRequest one = request(expected_["prompts"][i], options_of(greedy["options"]));
    one.wants_logprobs = true;
    const Generation made = generator.generate(one);
    const auto wanted = expected_["greedy_logprobs"][i].get<std::vector<double>>();
    ASSERT_EQ(made.logprobs.size(), wanted.size());
    for (size_t k = 0; k < wanted.size(); ++k)
      EXPECT_NEAR(made.logprobs[k], wanted[k], 1e-4) << i << ", " << k;
  }
}

TEST_P(GoldenTexts, BeamTexts) {
  for (const json& one : expected_["beam"]) {
    GeneratorOptions small;
    small.prefill_tokens = 7;
    Generator generator(*model_, nullptr, {}, small);
    std::vector<GenerationRequest> requests;
    for (const json& row : one["rows"])
      requests.push_back(request(row["prompt"], options_of(one["options"])));
    const std::vector<Generation> made = generator.generate(requests);
    for (size_t r = 0; r < requests.size(); ++r) {
      const json& row = one["rows"][r];
      SCOPED_TRACE(one["name"].get<std::string>() + ", prompt " + row["prompt"].dump());
      const std::vector<Hypothesis>& best = made[r].beams;
      const json& sequences = row["sequences"];
      ASSERT_GE(best.size(), sequences.size());
      for (size_t i = 0; i < sequences.size(); ++i) {
        EXPECT_EQ(best[i].tokens, sequences[i].get<Text>()) << i;
        EXPECT_NEAR(best[i].score, row["scores"][i].get<double>(), 1e-4) << i;
      }
      EXPECT_EQ(made[r].tokens, best.front().tokens);
      GoldenCounts::compared("generation");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTexts, ::testing::ValuesIn(models()),
                         [](const auto& info) { return info.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenTexts);

}  // namespace
}  // namespace msplora
