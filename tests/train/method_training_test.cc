// Methods that act through the events of training.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/linalg_matrix_rank.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <filesystem>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "msplora/adapters/files.h"
#include "msplora/adapters/planning.h"
#include "msplora/io/safetensors.h"
#include "temporary_directory.h"
#include "train/adapted_run.h"

namespace msplora {
namespace {

constexpr int64_t kSteps = 12;

AdapterConfig config_of(const std::string& method, int64_t rank = 3) {
  AdapterConfig config;
  config.method = method;
  config.rank = rank;
  config.alpha = 5.0;
  return config_for_method(config, method);
}

AdapterConfig lorapro(const std::string& mode) {
  AdapterConfig config = config_of("lorapro");
  config.set("lorapro.mode", mode);
  return config;
}

AdapterConfig xgblora() {
  AdapterConfig config;
  config.method = "xgblora";
  config.dropout = 0.1;
  config.set("xgblora.rounds", 4);
  config.set("xgblora.layers_per_round", 2);
  config.set("xgblora.booster_rank", 2);
  config.set("xgblora.scaling", 1.5);
  return config;
}

AdapterConfig gelora() {
  AdapterConfig config;
  config.method = "gelora";
  config.target_modules = {"query", "key", "value", "attention.output.dense"};
  config.set("gelora.layer_ranks", {3, 1, 2});
  config.set("gelora.alpha_ratio", 1.5);
  return config;
}

/// A run of kSteps steps with two micro-batches each.
struct MethodRun : AdaptedRun {
  explicit MethodRun(const AdapterConfig& config, at::ScalarType dtype = at::kFloat,
                     const ModelConfig& shape = tiny_config(0.1))
      : AdaptedRun(config, dtype, shape) {
    options.max_steps = kSteps;
    options.accumulation = 2;
    options.load_best_at_end = false;
  }
};

struct NamedConfig {
  std::string name;
  AdapterConfig config;
};

class TrainedMethods : public testing::TestWithParam<NamedConfig> {};

TEST_P(TrainedMethods, ResumeBitForBit) {
  TemporaryDirectory whole_directory;
  MethodRun whole(GetParam().config);
  const TrainingResult result = whole.run(whole_directory.path());
  for (const int64_t pause : {1, 4, 6}) {
    TemporaryDirectory directory;
    MethodRun first(GetParam().config);
    first.options.stop_at = pause;
    first.run(directory.path());
    MethodRun second(GetParam().config);
    const TrainingResult rest = second.run(directory.path(), /*resume=*/true);
    EXPECT_TRUE(all_equal(second.values(), whole.values())) << pause;
    EXPECT_EQ(rest.last_loss, result.last_loss) << pause;
    EXPECT_TRUE(at::equal(second.logits(), whole.logits())) << pause;
  }
}

TEST_P(TrainedMethods, LeaveStoredWeightsAloneAndMergeToWhatTheyComputed) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    TemporaryDirectory directory;
    MethodRun run(GetParam().config, dtype);
    std::vector<at::Tensor> before;
    for (const Site& site : run.adapter->sites()) before.push_back(site.linear->weight->values().clone());
    run.run(directory.path());
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(at::equal(run.adapter->sites()[i].linear->weight->values(), before[i])) << i;
    if (dtype != at::kFloat) continue;
    const at::Tensor adapted = run.logits();
    merge_adapter(*run.adapter, at::kFloat);
    EXPECT_LT((adapted - run.logits()).abs().max().item<double>(),
              2e-5 * adapted.abs().max().item<double>() + 1e-6);
  }
}

TEST_P(TrainedMethods, FilesOfBothFormsGiveTheSameLogits) {
  TemporaryDirectory directory;
  MethodRun run(GetParam().config);
  std::filesystem::create_directories(directory.path() / "run");
  run.run(directory.path() / "run");
  const at::Tensor expected = run.logits();
  save_native_adapter(*run.adapter, directory.path() / "native");
  save_peft_adapter(*run.adapter, directory.path() / "peft");
  for (const char* form : {"native", "peft"}) {
    MethodRun other(config_of("none"));
    const AdapterTarget target = other.adapter->target();
    other.adapter.reset();
    other.adapter = load_adapter(directory.path() / form, target);
    const double difference = (other.logits() - expected).abs().max().item<double>();
    EXPECT_LE(difference, form == std::string("native") ? 0.0 : 1e-5 * expected.abs().max().item<double>())
        << form;
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrainedMethods,
                         testing::Values(NamedConfig{"flatlora", config_of("flatlora")},
                                         NamedConfig{"loraprofull", lorapro("full")},
                                         NamedConfig{"loraproefficient", lorapro("efficient")},
                                         NamedConfig{"xgblora", xgblora()}, NamedConfig{"gelora", gelora()}),
                         [](const auto& info) { return info.param.name; });

/// Two runs from the same start: the same numbers everywhere, or not.
bool same_training(MethodRun& a, MethodRun& b) {
  TemporaryDirectory a_directory, b_directory;
  const TrainingResult a_result = a.run(a_directory.path()), b_result = b.run(b_directory.path());
  return a_result.last_loss == b_result.last_loss && all_equal(a.values(), b.values());
}

/// Wide enough for products with packed weights, which queries, keys and values share.
ModelConfig wide_config() {
  return model_test::with_keys(tiny_config(0.1), {{"hidden_size", 64}, {"head_dim", 16}});
}

TEST(FlatLora, WithoutNoiseIsLoraBitForBit) {
  AdapterConfig quiet = config_of("flatlora");
  quiet.set("flatlora.rho", 0.0);
  quiet.dropout = 0.1;
  AdapterConfig lora = config_of("lora");
  lora.dropout = 0.1;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const ModelConfig& shape : {tiny_config(0.1), wide_config()}) {
      MethodRun a(quiet, dtype, shape), b(lora, dtype, shape);
      EXPECT_TRUE(same_training(a, b)) << dtype;
      MethodRun noisy(config_of("flatlora"), dtype, shape), plain(config_of("lora"), dtype, shape);
      EXPECT_FALSE(same_training(noisy, plain)) << dtype;
    }
  }
}

TEST(FlatLora, EvaluatesWithoutNoise) {
  TemporaryDirectory directory;
  MethodRun run(config_of("flatlora"));
  run.adapter->begin_step({kSteps, kSteps});
  ASSERT_TRUE(run.adapter->sites()[0].linear->update->noise->deviations.defined());
  const at::Tensor noisy_adapter = run.logits();
  MethodRun lora(config_of("lora"));
  EXPECT_TRUE(at::equal(noisy_adapter, lora.logits()));
}

TEST(XgbLora, OneRoundOnAllLayersIsLoraBitForBit) {
  AdapterConfig boosted;
  boosted.method = "xgblora";
  boosted.alpha = 1.0;
  boosted.set("xgblora.rounds", 1);
  boosted.set("xgblora.layers_per_round", 3);
  AdapterConfig lora = config_of("lora", 1);
  lora.alpha = 1.0;
  boosted.dropout = lora.dropout = 0.1;
  MethodRun a(boosted), b(lora);
  EXPECT_TRUE(same_training(a, b));
}

TEST(XgbLora, MovesTheLayersOfTheRoundAloneAndMergesThem) {
  TemporaryDirectory directory;
  MethodRun run(xgblora());
  run.options.save_every = 1;
  run.run(directory.path());
  const CheckpointStore store(directory.path());
  std::map<std::string, at::Tensor> last;
  for (const NamedTensor& tensor : store.load_trainable(1)) last[tensor.name] = tensor.tensor;
  int64_t merges = 0;
  for (int64_t step = 2; step <= kSteps; ++step) {
    std::set<std::string> moved_layers;
    for (const NamedTensor& now : store.load_trainable(step)) {
      if (at::equal(now.tensor, last[now.name])) continue;
      last[now.name] = now.tensor;
      if (now.name.find(".merged_B.") != std::string::npos) ++merges;
      const size_t layer = now.name.find(".layer.");
      if (now.name.find(".lora_") != std::string::npos && layer != std::string::npos)
        moved_layers.insert(now.name.substr(layer, 9));
    }
    // A round has three steps; where one ends, the factors of the next are drawn.
    const bool is_end = step % 3 == 0 && step < kSteps;
    if (!is_end) {
      EXPECT_EQ(moved_layers.size(), 2u) << step;
    }
  }
  EXPECT_EQ(merges, 3 * 2 * 2);  // rounds, layers, modules

  // What was merged and what is being learned make the whole change.
  for (size_t i = 0; i < run.adapter->sites().size(); ++i) {
    at::Tensor sum = at::zeros({32, 32});
    int64_t rank = 0;
    for (const LowRankTerm& term : run.adapter->terms(i)) {
      sum += at::mm(term.up, term.down) * 1.5;
      rank += term.down.size(0);
    }
    EXPECT_TRUE(at::allclose(sum, run.adapter->change_of(i).weight, 1e-5, 1e-7));
    EXPECT_LE(at::linalg_matrix_rank(sum.to(at::kDouble), 1e-6, /*hermitian=*/false).item<int64_t>(), rank);
  }
}

/// Resets are recorded; nothing else happens.
struct Resets : OptimizerControl {
  void reset(const std::string& name) override { names.insert(name); }
  std::set<std::string> names;
};

TEST(XgbLora, AMergeChangesNothingAndStartsAnew) {
  TemporaryDirectory directory;
  MethodRun run(xgblora());
  run.options.stop_at = 2;
  run.run(directory.path());
  const at::Tensor before = run.logits();
  const auto frozen_before = run.adapter->begin_step({2, kSteps}).frozen;
  EXPECT_EQ(frozen_before.size(), 2u * 2u);  // one of three layers rests: two modules, two factors
  Resets resets;
  run.adapter->end_step({3, kSteps}, resets);
  const at::Tensor after = run.logits();
  EXPECT_LT((after - before).abs().max().item<double>(), 1e-5 * before.abs().max().item<double>());
  const auto frozen = run.adapter->begin_step({3, kSteps}).frozen;
  EXPECT_EQ(frozen.size(), 2u * 2u);
  EXPECT_EQ(resets.names.size(), 2u * 2u * 2u);
  for (const std::string& name : frozen) EXPECT_FALSE(resets.names.contains(name));
  for (const TrainableTensor& tensor : run.adapter->trainable()) {
    if (!resets.names.contains(tensor.name)) continue;
    const bool is_up = tensor.name.ends_with("lora_B.weight");
    EXPECT_EQ(tensor.tensor.abs().max().item<double>() == 0.0, is_up) << tensor.name;
  }
}

TEST(XgbLora, WarmsUpAfterEachMerge) {
  AdapterConfig config = xgblora();
  config.set("xgblora.warmup_steps", 3);
  MethodRun run(config);
  Resets resets;
  run.adapter->begin_step({0, 80});  // rounds of 20 steps
  EXPECT_TRUE(run.adapter->begin_step({0, 80}).lr_factors.empty());
  run.adapter->end_step({20, 80}, resets);
  double last = 0.0;
  for (const int64_t step : {20, 21, 22}) {
    const auto factors = run.adapter->begin_step({step, 80}).lr_factors;
    ASSERT_EQ(factors.size(), 8u);
    EXPECT_GT(factors.begin()->second, last);
    EXPECT_LT(factors.begin()->second, 1.0);
    last = factors.begin()->second;
  }
  EXPECT_TRUE(run.adapter->begin_step({23, 80}).lr_factors.empty());
}

/// With a penalty far above the loss, the step of all trained tensors together is as long as clip_norm
/// allows: what is clipped is what the optimizer gets.
TEST(XgbLora, ThePenaltyIsClippedWithTheRest) {
  TemporaryDirectory directory;
  AdapterConfig config = xgblora();
  config.set("xgblora.penalty", 1e4);
  MethodRun run(config);
  run.options.optimizer = "sgd";
  run.options.weight_decay = 0.0;
  run.options.schedule = "constant";
  run.options.lr = 1e-2;
  run.options.clip_norm = 0.5;
  run.options.max_steps = 1;
  const std::vector<at::Tensor> before = run.values();
  run.run(directory.path());
  const std::vector<at::Tensor> after = run.values();
  double squares = 0.0;
  for (size_t i = 0; i < before.size(); ++i) squares += (after[i] - before[i]).square().sum().item<double>();
  EXPECT_NEAR(std::sqrt(squares), 1e-2 * 0.5, 1e-5);
}

/// The best validation loss of a run on the task of tiny_examples: whether token 7 stands among the tokens.
double best_loss(const AdapterConfig& config) {
  TemporaryDirectory directory;
  MethodRun run(config);
  run.train = tiny_examples(300, 1);
  run.validation = tiny_examples(100, 2);
  run.options.max_steps = 400;
  run.options.save_every = 100;
  run.options.batch_size = 8;
  run.options.lr = 5e-3;
  const TrainingResult result = run.run(directory.path());
  return result.best ? result.best->value("loss") : INFINITY;
}

TEST(XgbLora, BeatsTheHeadAlone) {
  AdapterConfig boosted = config_of("xgblora", 8);
  boosted.alpha = AdapterConfig().alpha;
  const double head = best_loss(config_of("none")), boosting = best_loss(boosted);
  EXPECT_LT(boosting, head - 0.05);
}

/// Without moments there is nothing that the two modes do differently.
TEST(LoraPro, WithSgdBothModesAreTheSame) {
  const auto trained = [](const std::string& mode, const std::string& optimizer) {
    TemporaryDirectory directory;
    MethodRun run(lorapro(mode));
    run.options.optimizer = optimizer;
    run.options.weight_decay = 0.0;
    run.options.clip_norm = 0.0;
    run.options.lr = 1e-3;
    run.options.max_steps = 4;
    run.run(directory.path());
    return run.values();
  };
  const auto full = trained("full", "sgd"), efficient = trained("efficient", "sgd");
  for (size_t i = 0; i < full.size(); ++i) EXPECT_TRUE(at::allclose(full[i], efficient[i], 1e-4, 1e-6)) << i;
  EXPECT_FALSE(all_equal(full, trained("full", "adamw")));
  TemporaryDirectory directory;
  MethodRun lora(config_of("lora"));
  lora.options.optimizer = "sgd";
  lora.options.weight_decay = lora.options.clip_norm = 0.0;
  lora.options.lr = 1e-3;
  lora.options.max_steps = 4;
  lora.run(directory.path());
  EXPECT_FALSE(all_equal(full, lora.values()));
}

TEST(LoraPro, FullModeMovesTheWeightAlongTheProjectedAdamStep) {
  TemporaryDirectory directory;
  AdapterConfig config = lorapro("full");
  config.set("lorapro.damping", 0.0);
  MethodRun run(config);
  run.options.max_steps = 1;
  run.options.weight_decay = 0.0;
  run.options.clip_norm = 0.0;
  run.options.lr = 1e-3;
  run.options.schedule = "constant";
  std::vector<at::Tensor> downs;
  for (size_t i = 0; i < run.adapter->sites().size(); ++i)
    downs.push_back(run.adapter->terms(i)[0].down.detach().clone());
  run.run(directory.path());
  std::map<std::string, at::Tensor> moments;
  for (const NamedTensor& tensor : run.adapter->state("adamw").training) moments[tensor.name] = tensor.tensor;
  EXPECT_EQ(moments.at("lorapro.step").item<int64_t>(), 1);
  for (size_t i = 0; i < run.adapter->sites().size(); ++i) {
    const std::string& path = run.adapter->sites()[i].path;
    // In the first step B = 0: A rests and the change is -lr u P_A with u = m / (sqrt(v) + eps), |u| <= 1.
    const at::Tensor first = moments.at(path + ".lorapro.exp_avg").to(at::kDouble) / 0.1;
    const at::Tensor second = moments.at(path + ".lorapro.exp_avg_sq").to(at::kDouble) / 0.001;
    const at::Tensor u = first / (second.sqrt() + 1e-8);
    EXPECT_LE(u.abs().max().item<double>(), 1.0 + 1e-4);
    const at::Tensor a = downs[i].to(at::kDouble);
    const at::Tensor projector = at::mm(at::mm(a.t(), at::linalg_inv(at::mm(a, a.t()))), a);
    const at::Tensor expected = at::mm(u, projector) * -1e-3;
    const at::Tensor change = run.adapter->change_of(i).weight.to(at::kDouble);
    EXPECT_LT((change - expected).norm().item<double>(), 1e-4 * expected.norm().item<double>()) << path;
    EXPECT_TRUE(at::equal(run.adapter->terms(i)[0].down, downs[i]));
  }
}

TEST(LoraPro, LimitsTheStepOfTheDownFactor) {
  AdapterConfig config = lorapro("full");
  config.set("lorapro.max_relative_step", 0.01);
  MethodRun run(config);
  run.options.save_every = 1;
  run.options.weight_decay = 0.0;
  TemporaryDirectory directory;
  run.run(directory.path());
  const CheckpointStore store(directory.path());
  std::map<std::string, at::Tensor> last;
  double largest = 0.0;
  for (int64_t step = 1; step <= kSteps; ++step) {
    for (const NamedTensor& now : store.load_trainable(step)) {
      if (!now.name.ends_with("lora_A.weight")) continue;
      if (last.contains(now.name)) {
        const at::Tensor before = last[now.name];
        largest = std::max(largest, ((now.tensor - before).norm() / before.norm()).item<double>());
      }
      last[now.name] = now.tensor;
    }
  }
  EXPECT_GT(largest, 0.005);
  EXPECT_LT(largest, 0.0101);
}

TEST(LoraPro, LearnsInBothModes) {
  for (const char* mode : {"full", "efficient"}) {
    TemporaryDirectory directory;
    MethodRun run(lorapro(mode));
    run.options.max_steps = 200;
    run.options.lr = std::string(mode) == "full" ? 1e-3 : 5e-3;
    const TrainingResult result = run.run(directory.path());
    ASSERT_TRUE(result.best.has_value());
    // Chance is ln 2 = 0.693.
    EXPECT_LT(result.best->value("loss"), 0.65) << mode;
  }
}

TEST(LoraPro, KeepsMomentsInCheckpointsAndNotInAdapterFiles) {
  TemporaryDirectory directory;
  MethodRun run(lorapro("full"));
  run.options.max_steps = 2;
  run.run(directory.path());
  const auto in_checkpoint = CheckpointStore(directory.path()).load_trainable(2);
  const auto is_moment = [](const NamedTensor& tensor) {
    return tensor.name.find("lorapro") != std::string::npos;
  };
  EXPECT_EQ(std::count_if(in_checkpoint.begin(), in_checkpoint.end(), is_moment), 1 + 2 * 6);
  save_native_adapter(*run.adapter, directory.path() / "native");
  const auto file = SafetensorsFile::open(directory.path() / "native" / "adapter.safetensors");
  for (const auto& [name, info] : file->tensors()) EXPECT_EQ(name.find("lorapro"), std::string::npos) << name;
}

}  // namespace
}  // namespace msplora
