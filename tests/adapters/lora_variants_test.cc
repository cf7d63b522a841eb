// Initialisations, DoRA and LoRA+ of method lora.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <cmath>
#include <set>

#include "adapters/file_helpers.h"
#include "error_text.h"
#include "msplora/models/model.h"
#include "msplora/nn/functional.h"
#include "msplora/train/optimizer.h"
#include "msplora/train/trainer.h"
#include "nn/drawn_tensors.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using namespace testing;  // helpers of the adapter tests
using ::testing::HasSubstr;

const std::string kQuery = kBlock + "3.attention.self.query";

AdapterConfig lora_with(const std::string& init, int64_t rank = 4) {
  AdapterConfig config = config_of("lora");
  config.rank = rank;
  config.alpha = 6.0;
  config.init = init;
  return config;
}

FakeModel::Options in_double() {
  FakeModel::Options options;
  options.dtype = at::kDouble;
  options.bias_dtype = at::kDouble;
  options.layers = 4;
  return options;
}

size_t index_of(const Adapter& adapter, const std::string& path) {
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    if (adapter.sites()[i].path == path) return i;
  }
  ADD_FAILURE() << "no site " << path;
  return 0;
}

double largest(const at::Tensor& tensor) {
  return tensor.abs().max().item<double>();
}

TEST(LoraInit, PissaTakesTheLargestSingularValues) {
  FakeModel model(in_double());
  Linear& query = model.linear(kQuery);
  query.weight->values().zero_();
  for (int64_t i = 0; i < 16; ++i) query.weight->values()[15 - i][i] = 17.0 - static_cast<double>(i);
  const auto adapter = create_adapter(lora_with("pissa"), model.target(), 1);
  const LowRankTerm term = adapter->terms(index_of(*adapter, kQuery))[0];
  const c10::NoGradGuard no_grad;
  at::Tensor expected = at::zeros({16, 16}, at::kDouble);
  for (int64_t i = 0; i < 4; ++i) expected[15 - i][i] = 17.0 - static_cast<double>(i);
  EXPECT_DOUBLE_EQ(term.scaling, 1.5);
  EXPECT_LT(largest(at::mm(term.up, term.down) * 1.5 - expected), 1e-12);
  // Both factors carry the root of each value.
  EXPECT_LT(largest(at::mm(term.up.t(), term.up) - at::mm(term.down, term.down.t())), 1e-12);
}

TEST(LoraInit, OloraTakesColumnsOfQAndRowsOfR) {
  FakeModel model(in_double());
  const auto adapter = create_adapter(lora_with("olora"), model.target(), 1);
  const LowRankTerm term = adapter->terms(index_of(*adapter, kQuery))[0];
  const c10::NoGradGuard no_grad;
  const at::Tensor weight = model.linear(kQuery).weight->values();
  EXPECT_LT(largest(at::mm(term.up.t(), term.up) - at::eye(4, at::kDouble)), 1e-12);
  // Q_r R_r is the projection of W onto its first r columns, which it leaves as they are.
  const at::Tensor product = at::mm(term.up, term.down);
  EXPECT_LT(largest(product - at::mm(term.up, at::mm(term.up.t(), weight))), 1e-12);
  EXPECT_LT(largest((product - weight).slice(1, 0, 4)), 1e-12);
  EXPECT_GT(largest((product - weight).slice(1, 4)), 0.01);
}

TEST(LoraInit, OrthogonalFactorsHaveNoProduct) {
  FakeModel model;
  const auto adapter = create_adapter(lora_with("orthogonal"), model.target(), 1);
  for (size_t i = 0; i < adapter->sites().size(); ++i) {
    const auto terms = adapter->terms(i);
    ASSERT_EQ(terms.size(), 1u);
    EXPECT_GT(largest(terms[0].down), 0.05);
    EXPECT_GT(largest(terms[0].up), 0.05);
    EXPECT_LT(largest(at::mm(terms[0].up, terms[0].down)), 1e-7);
  }
  EXPECT_TRUE(adapter->state().tensors.empty());
  FakeModel other;
  AdapterConfig config = lora_with("orthogonal");
  config.rank_pattern = {{"value", 3}};
  EXPECT_THAT(
      error_text([&] { create_adapter(config, other.target(), 1); }),
      HasSubstr("adapter.rank_pattern: rank 3 is odd, but init `orthogonal` splits it in two (2 or 4)"));
}

TEST(LoraInit, PartsOfTheWeightAreSubtractedSoThatNothingChanges) {
  for (const char* init : {"pissa", "olora"}) {
    FakeModel model, plain;
    const at::Tensor before = model.linear(kQuery).weight->values().clone();
    const auto adapter = create_adapter(lora_with(init), model.target(), 1);
    const at::Tensor x = normals({5, 16}, "x").to(at::kFloat);
    EXPECT_TRUE(at::equal(model.linear(kQuery).forward(x, {}), plain.linear(kQuery).forward(x, {}))) << init;
    EXPECT_TRUE(at::equal(model.linear(kQuery).forward(x, training_context(4)),
                          plain.linear(kQuery).forward(x, training_context(4))));
    EXPECT_EQ(largest(adapter->change_of(index_of(*adapter, kQuery)).weight), 0.0);
    EXPECT_TRUE(at::equal(model.linear(kQuery).weight->values(), before));
    EXPECT_FALSE(model.linear(kQuery).weight->values().requires_grad());
  }
}

TEST(LoraInit, ForwardIsTheChangeOfTheProduct) {
  for (const double dropout_probability : {0.0, 0.3}) {
    FakeModel model(in_double());
    AdapterConfig config = lora_with("pissa");
    config.dropout = dropout_probability;
    const auto adapter = create_adapter(config, model.target(), 1);
    const size_t site = index_of(*adapter, kQuery);
    const at::Tensor start = at::mm(tensor_named(*adapter, kQuery + ".lora_B.start"),
                                    tensor_named(*adapter, kQuery + ".lora_A.start"));
    randomize(*adapter, 0.5);
    const c10::NoGradGuard no_grad;
    const LowRankTerm term = adapter->terms(site)[0];
    const at::Tensor delta = 1.5 * (at::mm(term.up, term.down) - start);
    EXPECT_LT(largest(adapter->change_of(site).weight - delta), 1e-12);
    const Linear& query = model.linear(kQuery);
    const at::Tensor x = normals({5, 16}, "x");
    const ForwardContext context = training_context(4);
    const at::Tensor dropped = dropout(x, dropout_mask(context, dropout_probability, term.dropout_stream));
    const at::Tensor expected =
        at::linear(x, query.weight->values(), query.bias) + at::mm(dropped, delta.t());
    EXPECT_LT(largest(query.forward(x, context) - expected), 1e-12);
  }
}

/// Compares the gradients of `tensors` with differences of `reference`, a function of them by other code.
template <typename Loss, typename Reference>
void expect_gradients(const std::vector<at::Tensor>& tensors, const Loss& loss, const Reference& reference) {
  for (at::Tensor tensor : tensors) tensor.mutable_grad().reset();
  loss().backward();
  const c10::NoGradGuard no_grad;
  EXPECT_NEAR(loss().template item<double>(), reference().template item<double>(), 1e-10);
  for (const at::Tensor& tensor : tensors) {
    at::Tensor flat = tensor.view({-1});
    ASSERT_TRUE(tensor.grad().defined());
    const at::Tensor gradient = tensor.grad().reshape({-1});
    for (int64_t i = 0; i < flat.numel(); ++i) {
      const double kept = flat[i].item<double>(), step = 1e-6;
      flat[i] = kept + step;
      const double up = reference().template item<double>();
      flat[i] = kept - step;
      const double down = reference().template item<double>();
      flat[i] = kept;
      ASSERT_NEAR(gradient[i].item<double>(), (up - down) / (2 * step), 1e-6);
    }
  }
}

TEST(LoraInit, GradientsOfPissaMatchFiniteDifferences) {
  FakeModel model(in_double());
  AdapterConfig config = lora_with("pissa", 3);
  config.dropout = 0.2;
  const auto adapter = create_adapter(config, model.target(), 1);
  randomize(*adapter, 0.3);
  const LowRankTerm term = adapter->terms(index_of(*adapter, kQuery))[0];
  const at::Tensor x = normals({3, 16}, "x").requires_grad_(true), weights = normals({3, 16}, "loss");
  const auto loss = [&] { return (model.linear(kQuery).forward(x, training_context(4)) * weights).sum(); };
  expect_gradients({term.down, term.up, x}, loss, loss);
}

TEST(Dora, StartsAtTheBaseToTheBit) {
  for (const char* init : {"default", "pissa"}) {
    FakeModel model, plain;
    AdapterConfig config = lora_with(init);
    config.use_dora = true;
    config.dropout = 0.5;
    const auto adapter = create_adapter(config, model.target(), 1);
    const at::Tensor x = normals({5, 16}, "x").to(at::kFloat);
    for (const ForwardContext& context : {ForwardContext(), training_context(4)}) {
      EXPECT_TRUE(
          at::equal(model.linear(kQuery).forward(x, context), plain.linear(kQuery).forward(x, context)));
    }
    EXPECT_LT(largest(tensor_named(*adapter, kQuery + ".lora_magnitude_vector") -
                      model.linear(kQuery).weight->values().norm(2, 1)),
              1e-6);
    EXPECT_EQ(tensor_named(*adapter, kQuery + ".lora_magnitude_vector").sizes().vec(),
              (std::vector<int64_t>{16}));
  }
}

/// PEFT's formula over dense products, with the norms held at what they are when this is made.
struct DoraReference {
  DoraReference(const Linear& layer, const at::Tensor& x, const LowRankTerm& term,
                const at::Tensor& magnitude)
      : layer(layer), x(x), term(term), magnitude(magnitude) {
    const c10::NoGradGuard no_grad;
    norms = (layer.weight->values() + term.scaling * at::mm(term.up, term.down)).norm(2, 1);
  }

  at::Tensor operator()(const ForwardContext& context) const {
    const c10::NoGradGuard no_grad;
    const at::Tensor dropped = dropout(x, dropout_mask(context, term.dropout, term.dropout_stream));
    const at::Tensor gain = magnitude / norms;
    return at::linear(x, layer.weight->values(), layer.bias) +
           (gain - 1.0) * at::linear(dropped, layer.weight->values()) +
           gain * term.scaling * at::mm(at::mm(dropped, term.down.t()), term.up.t());
  }

  const Linear& layer;
  at::Tensor x;
  LowRankTerm term;
  at::Tensor magnitude, norms;
};

TEST(Dora, OutputAndGradientsArePeftsFormula) {
  for (const double dropout_probability : {0.0, 0.4}) {
    FakeModel model(in_double());
    AdapterConfig config = lora_with("default", 3);
    config.use_dora = true;
    config.dropout = dropout_probability;
    const auto adapter = create_adapter(config, model.target(), 1);
    randomize(*adapter, 0.4);
    const Linear& query = model.linear(kQuery);
    const LowRankTerm term = adapter->terms(index_of(*adapter, kQuery))[0];
    const at::Tensor magnitude = tensor_named(*adapter, kQuery + ".lora_magnitude_vector");
    const at::Tensor x = normals({3, 16}, "x").requires_grad_(true), weights = normals({3, 16}, "loss");
    const DoraReference reference(query, x, term, magnitude);
    const ForwardContext context = training_context(4);
    expect_gradients(
        {term.down, term.up, magnitude, x}, [&] { return (query.forward(x, context) * weights).sum(); },
        [&] { return (reference(context) * weights).sum(); });
    EXPECT_FALSE(query.weight->values().grad().defined());
  }
}

TEST(Dora, NormsFollowTheFactorsWhoeverWritesThem) {
  FakeModel model(in_double());
  AdapterConfig config = lora_with("olora", 3);
  config.use_dora = true;
  const auto adapter = create_adapter(config, model.target(), 1);
  randomize(*adapter, 0.4);
  const Linear& query = model.linear(kQuery);
  const size_t site = index_of(*adapter, kQuery);
  const at::Tensor x = normals({5, 16}, "x");
  const auto expect_merged = [&] {
    const c10::NoGradGuard no_grad;
    const at::Tensor merged = query.weight->values() + adapter->change_of(site).weight;
    for (int repetition = 0; repetition < 2; ++repetition)
      EXPECT_LT(largest(query.forward(x, {}) - at::linear(x, merged, query.bias)), 1e-12);
  };
  expect_merged();
  for (const char* factor : {".lora_A.weight", ".lora_B.weight"}) {
    const c10::NoGradGuard no_grad;
    tensor_named(*adapter, kQuery + factor).mul_(1.5);
    expect_merged();
  }
  query.forward(x, training_context(1)).square().sum().backward();
  const std::vector<NamedTensor> factors = {{"A", tensor_named(*adapter, kQuery + ".lora_A.weight")},
                                            {"B", tensor_named(*adapter, kQuery + ".lora_B.weight")}};
  AdamW optimizer({}, {{"factors", /*lr=*/0.1, /*weight_decay=*/0.0, factors}});
  const at::Tensor before = query.forward(x, {}).detach();
  optimizer.step(1.0);
  expect_merged();
  EXPECT_GT(largest(query.forward(x, {}) - before), 0.1);
}

TEST(Dora, MergedRowsHaveTheMagnitudesAsNorms) {
  for (const char* init : {"default", "olora"}) {
    FakeModel model(in_double());
    AdapterConfig config = lora_with(init);
    config.use_dora = true;
    const auto adapter = create_adapter(config, model.target(), 1);
    randomize(*adapter, 0.4);
    const c10::NoGradGuard no_grad;
    const Linear& query = model.linear(kQuery);
    const at::Tensor merged = query.weight->values() + adapter->change_of(index_of(*adapter, kQuery)).weight;
    const at::Tensor magnitude = tensor_named(*adapter, kQuery + ".lora_magnitude_vector");
    EXPECT_LT(largest(merged.norm(2, 1) - magnitude.abs()), 1e-12);
    const at::Tensor x = normals({5, 16}, "x");
    EXPECT_LT(largest(query.forward(x, {}) - at::linear(x, merged, query.bias)), 1e-12);
  }
}

TEST(LoraCounts, OfKnownModels) {
  const auto count = [](const char* shape, ModelTask task, std::vector<std::string> modules, int64_t rank) {
    const ModelConfig model = known_model_shape(shape);
    AdapterConfig config = config_of("lora");
    config.rank = rank;
    config.target_modules = std::move(modules);
    return count_parameters(config, sites_of_shape(model, task), describe(model).num_layers()).total;
  };
  EXPECT_EQ(count("roberta-base", ModelTask::kMaskedLm, {"query", "value"}, 8), 294912);
  EXPECT_EQ(count("roberta-large", ModelTask::kMaskedLm, {"query", "value"}, 8), 786432);
  EXPECT_EQ(count("llama-2-7b", ModelTask::kCausalLm, {"q_proj", "v_proj"}, 8), 4194304);
  EXPECT_EQ(count("llama-2-7b", ModelTask::kCausalLm, {"q_proj", "k_proj", "v_proj", "o_proj"}, 1), 1048576);
  EXPECT_EQ(count("llama-2-7b", ModelTask::kCausalLm, {"all-linear"}, 16), 39976960);
}

TEST(Dora, CountsOfLlama) {
  const ModelConfig llama = known_model_shape("llama-3.2-3b");
  const std::vector<Site> sites = sites_of_shape(llama, ModelTask::kCausalLm);
  AdapterConfig config = config_of("lora");
  config.rank = 32;
  config.target_modules = {"q_proj", "v_proj"};
  EXPECT_EQ(count_parameters(config, sites, 28).total, 9175040);
  config.use_dora = true;
  EXPECT_EQ(count_parameters(config, sites, 28).total, 9289728);
}

TEST(LoraPlus, LearningRateOfB) {
  FakeModel model;
  AdapterConfig config = config_of("lora");
  config.lora_plus_ratio = 16.0;
  config.use_dora = true;
  const auto adapter = create_adapter(config, model.target(), 1);
  TrainOptions options;
  options.lr = 0.5;
  std::map<std::string, double> rates;
  for (const OptimizerGroup& group : optimizer_groups(options, adapter->trainable())) {
    for (const NamedTensor& parameter : group.tensors) rates[parameter.name] = group.lr;
  }
  EXPECT_DOUBLE_EQ(rates.at(kQuery + ".lora_A.weight"), 0.5);
  EXPECT_DOUBLE_EQ(rates.at(kQuery + ".lora_B.weight"), 8.0);
  EXPECT_DOUBLE_EQ(rates.at(kQuery + ".lora_magnitude_vector"), 0.5);
  EXPECT_DOUBLE_EQ(rates.at("classifier.dense.weight"), 0.5);
}

TEST(LoraVariants, OtherMethodsRefuseThem) {
  FakeModel model;
  AdapterConfig config = config_of("msplora");
  config.use_dora = true;
  config.init = "pissa";
  config.set("prilora.beta", 0.5);
  const std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text, HasSubstr("adapter.use_dora: has no meaning for method `msplora`"));
  EXPECT_THAT(text,
              HasSubstr("adapter.init: has no meaning for method `msplora` (`pissa` is for method lora"));
  EXPECT_THAT(text, HasSubstr("adapter.prilora.beta: belongs to method prilora; msplora would ignore it"));
  config = config_of("none");
  config.lora_plus_ratio = 2.0;
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              HasSubstr("adapter.lora_plus_ratio: has no meaning for method `none`"));
}

/// Variants with alpha other than the rank, and patterns.
std::vector<AdapterConfig> variants() {
  std::vector<AdapterConfig> configs;
  for (const char* init : {"pissa", "olora", "orthogonal", "default"}) {
    for (const bool use_dora : {false, true}) {
      AdapterConfig config = lora_with(init);
      config.use_dora = use_dora;
      configs.push_back(config);
      config.use_rslora = true;
      config.rank_pattern = {{"value", 2}};
      config.alpha_pattern = {{"layer.1.attention.self.query", 2.5}};
      configs.push_back(config);
    }
  }
  return configs;
}

TEST(LoraVariants, NativeFilesRestoreTheFunctionToTheBit) {
  const at::Tensor x = normals({5, 16}, "x").to(at::kFloat);
  for (const AdapterConfig& config : variants()) {
    TemporaryDirectory directory;
    FakeModel model, other;
    const auto saved = make_saved(model, config, directory.path(), /*peft=*/false);
    const auto loaded = load_adapter(directory.path(), other.target());
    EXPECT_EQ(loaded->config().init, config.init);
    for (const Site& site : saved->sites()) {
      EXPECT_TRUE(at::equal(model.linear(site.path).forward(x, training_context(4)),
                            other.linear(site.path).forward(x, training_context(4))))
          << config.init << " " << site.path;
    }
  }
}

TEST(LoraVariants, PeftFilesHoldTheSameUpdate) {
  const at::Tensor x = normals({5, 16}, "x").to(at::kFloat);
  for (const AdapterConfig& config : variants()) {
    SCOPED_TRACE(fmt::format("{} dora {} rslora {}", config.init, config.use_dora, config.use_rslora));
    TemporaryDirectory directory;
    FakeModel model, other;
    const auto saved = make_saved(model, config, directory.path(), /*peft=*/true);
    const bool is_doubled = config.init == "pissa" || config.init == "olora";
    const json file = read_json(directory.path() / "adapter_config.json");
    EXPECT_EQ(file["r"], is_doubled ? 8 : 4);
    const double growth = is_doubled ? (config.use_rslora ? std::sqrt(2.0) : 2.0) : 1.0;
    EXPECT_DOUBLE_EQ(file["lora_alpha"].get<double>(), 6.0 * growth);
    EXPECT_EQ(file.value("use_dora", false), config.use_dora);
    EXPECT_EQ(file["init_lora_weights"], true);
    const auto loaded = load_adapter(directory.path(), other.target());
    EXPECT_EQ(loaded->config().init, "default");
    EXPECT_EQ(loaded->config().use_dora, config.use_dora);
    for (const Site& site : saved->sites()) {
      const at::Tensor expected = model.linear(site.path).forward(x, {});
      EXPECT_LT(largest(other.linear(site.path).forward(x, {}) - expected), 2e-6 * (1.0 + largest(expected)));
    }
  }
}

TEST(LoraVariants, PeftFilesOfDora) {
  TemporaryDirectory directory;
  FakeModel model, other;
  AdapterConfig config = lora_with("default");
  config.use_dora = true;
  const auto saved = make_saved(model, config, directory.path(), true);
  const auto path = directory.path() / "adapter_model.safetensors";
  const std::string key = kPrefix + kQuery + ".lora_magnitude_vector";
  EXPECT_TRUE(at::equal(SafetensorsFile::open(path)->tensor(key),
                        tensor_named(*saved, kQuery + ".lora_magnitude_vector")));
  // Other versions of PEFT spell the key with the adapter's name, or as a weight.
  const std::string value = kPrefix + kBlock + "3.attention.self.value.lora_magnitude_vector";
  rewrite(path, [&](std::map<std::string, at::Tensor>& tensors) {
    tensors[key + ".default.weight"] = tensors.at(key);
    tensors.erase(key);
    tensors[value + ".weight"] = tensors.at(value);
    tensors.erase(value);
  });
  EXPECT_TRUE(at::equal(
      tensor_named(*load_adapter(directory.path(), other.target()), kQuery + ".lora_magnitude_vector"),
      tensor_named(*saved, kQuery + ".lora_magnitude_vector")));
  rewrite_json(directory.path() / "adapter_config.json", [](json& file) { file["use_dora"] = false; });
  FakeModel third;
  EXPECT_THAT(error_text([&] { load_adapter(directory.path(), third.target()); }),
              HasSubstr("unexpected (24)"));
}

}  // namespace
}  // namespace msplora
