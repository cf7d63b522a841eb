// Texts that real transformers made with tiny models, greedy and with beams, against the rules of generation
// on whole forward passes.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
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
#include "msplora/generation/beam_search.h"
#include "msplora/generation/scores.h"
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

  /// All prompts at once, each until it ends.
  std::vector<Text> greedy(const GenerationOptions& options) const {
    std::vector<Text> texts = expected_["prompts"].get<std::vector<Text>>();
    const std::vector<Text> prompts = texts;
    std::vector<size_t> open(texts.size());
    for (size_t i = 0; i < open.size(); ++i) open[i] = i;
    for (int64_t step = 0; step < options.max_new_tokens && !open.empty(); ++step) {
      std::vector<Text> live;
      for (const size_t i : open) live.push_back(texts[i]);
      std::vector<std::vector<double>> scores = scores_of(live);
      std::vector<size_t> left;
      for (size_t k = 0; k < open.size(); ++k) {
        Text& text = texts[open[k]];
        apply_rules(options, text, prompts[open[k]].size(), scores[k]);
        text.push_back(likeliest(scores[k]));
        const auto& ends = options.eos_token_id;
        if (std::find(ends.begin(), ends.end(), text.back()) == ends.end()) left.push_back(open[k]);
      }
      open = left;
    }
    for (size_t i = 0; i < texts.size(); ++i)
      texts[i].erase(texts[i].begin(), texts[i].begin() + static_cast<std::ptrdiff_t>(prompts[i].size()));
    return texts;
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
  for (const json& one : expected_["cases"]) {
    SCOPED_TRACE(one["name"]);
    if (one["smallest_gap"].get<double>() < 1e-4) continue;  // rounding may choose otherwise
    EXPECT_EQ(greedy(options_of(one["options"])), one["outputs"].get<std::vector<Text>>());
    GoldenCounts::compared("generation");
  }
}

TEST_P(GoldenTexts, BeamTexts) {
  for (const json& one : expected_["beam"]) {
    const GenerationOptions options = options_of(one["options"]);
    for (const json& row : one["rows"]) {
      SCOPED_TRACE(one["name"].get<std::string>() + ", prompt " + row["prompt"].dump());
      const Text prompt = row["prompt"].is_array()
                              ? row["prompt"].get<Text>()
                              : expected_["prompts"][row["prompt"].get<size_t>()].get<Text>();
      BeamSearch search(options, prompt);
      while (!search.is_done()) search.advance(scores_of(search.live()));
      const std::vector<Hypothesis> best = search.best();
      const json& sequences = row["sequences"];
      ASSERT_GE(best.size(), sequences.size());
      for (size_t i = 0; i < sequences.size(); ++i) {
        EXPECT_EQ(best[i].tokens, sequences[i].get<Text>()) << i;
        EXPECT_NEAR(best[i].score, row["scores"][i].get<double>(), 1e-4) << i;
      }
      GoldenCounts::compared("generation");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTexts, ::testing::ValuesIn(models()),
                         [](const auto& info) { return info.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenTexts);

}  // namespace
}  // namespace msplora
