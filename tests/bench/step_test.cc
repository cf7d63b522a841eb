#include "msplora/bench/step.h"

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "msplora/adapters/planning.h"
#include "msplora/bench/child_process.h"
#include "msplora/bench/epoch.h"
#include "msplora/bench/gemm.h"
#include "msplora/bench/kernels.h"
#include "msplora/core/error.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

StepBenchOptions tiny_step(const std::string& method) {
  StepBenchOptions options;
  options.model = tiny_config(0.1);
  options.adapter.method = method;
  options.adapter.rank = 4;
  options.adapter = config_for_method(options.adapter, method);
  options.batch = 4;
  options.longest = 12;
  options.shortest = 6;
  options.steps = 2;
  return options;
}

TEST(BenchStep, CountsStepsTokensAndWhereTheTimeGoes) {
  std::vector<int64_t> seen;
  const StepBenchResult result =
      bench_step(tiny_step("lora"), [&](int64_t step, double) { seen.push_back(step); });
  EXPECT_EQ(seen, (std::vector<int64_t>{1, 2, 3, 4}));  // two of them to warm up
  EXPECT_EQ(result.steps.seconds.size(), 2u);
  EXPECT_EQ(result.tokens, 12 + 10 + 8 + 6);
  EXPECT_EQ(result.padded_tokens, 48);
  EXPECT_GT(result.roof_flops_per_second, 0);
  EXPECT_GT(result.roof_share(), 0);
  EXPECT_GT(result.median_roof_share(), 0);
  EXPECT_GE(result.peak_flops_per_second, 0.5 * result.roof_flops_per_second);  // measured at other moments
  EXPECT_TRUE(std::isfinite(result.first_loss) && std::isfinite(result.last_loss));
  std::map<std::string, int64_t> calls;
  for (const ProfileEntry& entry : result.profile) calls[entry.name] = entry.calls;
  // 3 blocks of 6 layers and two of the head; queries and values are adapted.
  EXPECT_EQ(calls["linear forward"], 2 * (3 * 6 + 2));
  EXPECT_EQ(calls["low rank forward"], 2 * 3 * 2);
  EXPECT_EQ(calls["low rank backward"], 2 * 3 * 2);
  EXPECT_EQ(calls["attention backward"], 2 * 3);
  EXPECT_EQ(calls["optimizer"], 2);
}

// By hand: 3 blocks of width 32 and 64; sequences of 12, 10, 8 and 6 tokens, 36 in all. A block has 8,192
// weights: four of attention with 1,024 each, two of 2,048. The last block has keys and values for all
// tokens, the rest for 4 rows; so has the head, 32 x 32 and 32 x 2 weights.
TEST(BenchStep, FlopsAreThoseCountedByHand) {
  const double block = 2 * 36 * 8192, last_block = 2 * 36 * 2048 + 2 * 4 * 6144, head = 2 * 4 * (1024 + 64);
  const double pairs = 12 * 12 + 10 * 10 + 8 * 8 + 6 * 6;
  const double attention = 2 * (4 * 32 * pairs) + 4 * 32 * 36;
  const StepBenchResult none = bench_step(tiny_step("none")), full = bench_step(tiny_step("full")),
                        lora = bench_step(tiny_step("lora")), msplora = bench_step(tiny_step("msplora"));
  for (const StepBenchResult* result : {&none, &full, &lora, &msplora}) {
    EXPECT_DOUBLE_EQ(result->flops.linear_forward, 2 * block + last_block + head);
    EXPECT_DOUBLE_EQ(result->flops.attention_forward, attention);
  }
  // The head alone: gradients of both its weights, and of the input of the second.
  EXPECT_DOUBLE_EQ(none.flops.linear_backward, head + 2 * 4 * 64);
  EXPECT_DOUBLE_EQ(none.flops.attention_backward, 0);
  EXPECT_DOUBLE_EQ(none.flops.low_rank, 0);
  EXPECT_EQ(none.trainable_parameters, 32 * 32 + 32 + 32 * 2 + 2);
  // Everything: gradients of all weights and all inputs.
  EXPECT_DOUBLE_EQ(full.flops.linear_backward, 2 * (2 * block + last_block + head));
  EXPECT_DOUBLE_EQ(full.flops.attention_backward, 2 * attention);
  // The biases, those of the embeddings among them: gradients of all inputs, and of the head's weights.
  const StepBenchResult bitfit = bench_step(tiny_step("bitfit"));
  EXPECT_DOUBLE_EQ(bitfit.flops.linear_backward, 2 * block + last_block + 2 * head);
  EXPECT_DOUBLE_EQ(bitfit.flops.attention_backward, 2 * attention);
  const int64_t norm = 2 * 32, of_block = 4 * (1024 + 32) + (2048 + 64) + (2048 + 32) + 2 * norm;
  EXPECT_EQ(full.trainable_parameters, (60 + 40 + 1) * 32 + norm + 3 * of_block + none.trainable_parameters);
  // Queries and values of rank 4: block 0 passes no gradient to its input, 5,120 weights lie behind
  // that.
  EXPECT_DOUBLE_EQ(lora.flops.linear_backward, 2 * 36 * (1024 + 2 * 2048) + block + last_block + 2 * head);
  EXPECT_DOUBLE_EQ(lora.flops.attention_backward, 2 * attention);
  EXPECT_DOUBLE_EQ(lora.flops.low_rank, 2 * (2 * 36 * 4) * (64 + 96) +  // block 0: forward, three of four
                                            2 * (2 * 36 * 4) * (64 + 128) +  // block 1
                                            (2 * 36 * 4 + 2 * 4 * 4) * (64 + 128));
  EXPECT_EQ(lora.trainable_parameters, 6 * 4 * (32 + 32) + none.trainable_parameters);
  EXPECT_DOUBLE_EQ(msplora.flops.linear_backward, lora.flops.linear_backward);
}

TEST(BenchStep, DecodersModelLanguage) {
  StepBenchOptions options = tiny_step("lora");
  options.model = tiny_config("llama", 0.1);
  options.adapter.target_modules = {"q_proj", "v_proj"};
  options.roof_repetitions = 0;
  const StepBenchResult result = bench_step(options);
  EXPECT_EQ(result.roof_flops_per_second, 0);
  EXPECT_EQ(result.peak_flops_per_second, 0);
  EXPECT_NEAR(result.first_loss, std::log(60.0), 3.0);  // of 60 tokens, by chance
  std::map<std::string, int64_t> calls;
  for (const ProfileEntry& entry : result.profile) calls[entry.name] = entry.calls;
  EXPECT_EQ(calls["head and loss"], 2);
  // 4 x 1,024 weights of attention and 3 x 2,048 behind it; each token but the first of its sequence is
  // predicted, among 60. A token meets itself and those before it.
  EXPECT_DOUBLE_EQ(result.flops.linear_forward, 3 * 2.0 * 36 * (4096 + 6144) + 2.0 * (36 - 4) * 32 * 60);
  EXPECT_DOUBLE_EQ(result.flops.attention_forward, 3 * 4.0 * 32 * (78 + 55 + 36 + 21));
  options.model = model_test::with_keys(
      tiny_config("mistral", 0.1),
      {{"sliding_window", 3}});  // all but the first two tokens of a sequence meet three
  EXPECT_DOUBLE_EQ(bench_step(options).flops.attention_forward, 3 * 4.0 * 32 * (33 + 27 + 21 + 15));
}

TEST(BenchStep, BadOptionsAreReportedTogether) {
  StepBenchOptions options = tiny_step("lora");
  options.batch = 0;
  options.shortest = 50;
  try {
    bench_step(options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("batch"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("min-seq"), std::string::npos);
  }
}

TEST(BenchStep, CheckpointingChangesTheWorkButNotTheLosses) {
  StepBenchOptions options = tiny_step("msplora");
  const StepBenchResult kept = bench_step(options);
  options.checkpoint_activations = true;
  const StepBenchResult again = bench_step(options);
  EXPECT_EQ(again.first_loss, kept.first_loss);
  EXPECT_EQ(again.last_loss, kept.last_loss);
  EXPECT_EQ(kept.flops.recomputation, 0);
  EXPECT_GT(again.flops.recomputation, 0);
  EXPECT_EQ(again.flops.total(), kept.flops.total());
}

TEST(BenchEpoch, SeesEveryTokenOnce) {
  const std::vector<TokenizedExample> examples = tiny_examples(40, 3);
  int64_t tokens = 0;
  for (const TokenizedExample& example : examples) tokens += static_cast<int64_t>(example.ids.size());
  EpochBenchOptions options;
  options.step = tiny_step("lora");
  options.token_budget = 60;
  const EpochBenchResult result = bench_epoch(options, examples);
  EXPECT_EQ(result.tokens, tokens);
  EXPECT_EQ(result.steps, result.epoch_steps);
  EXPECT_GE(result.padded_tokens, result.tokens);
  EXPECT_GT(result.flops, 0);
  options.max_steps = 2;
  EXPECT_EQ(bench_epoch(options, examples).steps, 2);
}

TEST(BenchKernels, EveryKernelHasAFloorAndATime) {
  KernelBenchOptions options;
  options.model = tiny_config();
  options.batch = 2;
  options.length = 9;
  options.repetitions = 2;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    options.dtype = dtype;
    const KernelReport report = bench_kernels(options);
    EXPECT_GE(report.kernels.size(), 14u);
    for (const KernelResult& kernel : report.kernels) {
      EXPECT_GT(kernel.floor_seconds, 0) << kernel.name;
      EXPECT_EQ(kernel.timings.seconds.size(), 2u) << kernel.name;
    }
  }
  options.dtype = at::kDouble;
  EXPECT_THROW(bench_kernels(options), Error);
}

TEST(ChildProcess, OutputExitCodeAndMemory) {
  const ChildResult result = run_child({"sh", "-c", "echo text; exit 3"});
  EXPECT_EQ(result.output, "text\n");
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_GT(result.peak_memory_bytes, 0);
  EXPECT_EQ(run_child({"sh", "-c", "kill -9 $$"}).exit_code, 128 + 9);
  EXPECT_THROW(run_child({"no-such-program-anywhere"}), Error);
}

TEST(BenchGemm, EveryWayGivesTheSameProduct) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const auto variants = gemm_variants({33, 48, 20}, dtype);
    ASSERT_FALSE(variants.empty());
    for (const auto& variant : variants) variant->run();
    const at::Tensor expected = variants[0]->result().to(at::kFloat);
    for (const auto& variant : variants) {
      const double error = (variant->result().to(at::kFloat) - expected).abs().max().item<double>();
      EXPECT_LT(error, dtype == at::kFloat ? 1e-5 : 5e-2) << variant->name();
    }
  }
}

TEST(Timings, BestAndMedian) {
  EXPECT_EQ((Timings{{3, 1, 2}}).median(), 2);
  EXPECT_EQ((Timings{{4, 1, 2, 3}}).median(), 2.5);
  EXPECT_EQ((Timings{{4, 1, 2, 3}}).best(), 1);
  EXPECT_EQ(Timings{}.best(), 0);
}

}  // namespace
}  // namespace msplora
