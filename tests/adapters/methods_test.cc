#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "error_text.h"
#include "msplora/adapters/adapter.h"
#include "msplora/adapters/fingerprint.h"

namespace msplora {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using testing::FakeModel;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::query_ranks;
using testing::tensor_named;

const std::string kBlock = "roberta.encoder.layer.";

AdapterConfig msplora_config() {
  AdapterConfig config;
  config.target_modules = {"query", "value"};
  config.rank = 8;
  return config;
}

AdapterConfig lora_config(int64_t rank = 8) {
  AdapterConfig config;
  config.method = "lora";
  config.rank = rank;
  config.target_modules = {"query", "value"};
  return config;
}

TEST(Msplora, SharedTensorsAreOneStorageInTheirScope) {
  FakeModel model;
  const auto adapter = create_adapter(msplora_config(), model.target(), 1);
  ASSERT_EQ(adapter->sites().size(), 24u);
  std::map<std::string, std::vector<std::set<void*>>> owners;  // module -> level -> storages
  for (size_t i = 0; i < 24; ++i) {
    const Site& site = adapter->sites()[i];
    const auto terms = adapter->terms(i);
    ASSERT_EQ(terms.size(), 3u);
    auto& levels = owners[site.module];
    levels.resize(3);
    for (size_t k = 0; k < 3; ++k) levels[k].insert(terms[k].down.data_ptr());
    const std::string own = site.path + ".lora_A.2.weight";
    const std::string mid =
        kBlock + std::to_string(site.layer / 4 * 4) + ".attention.self." + site.module + ".lora_B.1.weight";
    EXPECT_TRUE(terms[2].down.is_same(tensor_named(*adapter, own)));
    EXPECT_TRUE(terms[1].up.is_same(tensor_named(*adapter, mid)));
    EXPECT_TRUE(terms[0].down.is_same(
        tensor_named(*adapter, kBlock + "0.attention.self." + site.module + ".lora_A.0.weight")));
  }
  for (const auto& [module, levels] : owners) {
    EXPECT_EQ(levels[0].size(), 1u);
    EXPECT_EQ(levels[1].size(), 3u);
    EXPECT_EQ(levels[2].size(), 12u);
  }
  EXPECT_EQ(adapter->trainable().size(), 64u + 4u);  // 64 factors, classifier weights and biases
  EXPECT_THAT(query_ranks(*adapter), ElementsAreArray(std::vector<int64_t>(12, 14)));
}

TEST(Msplora, OwnerOnlyRanksAreThoseOfTheReleasedCode) {
  FakeModel model;
  AdapterConfig config = msplora_config();
  config.sharing = "owner_only";
  const auto adapter = create_adapter(config, model.target(), 1);
  EXPECT_THAT(query_ranks(*adapter), ElementsAre(14, 2, 2, 2, 6, 2, 2, 2, 6, 2, 2, 2));
  FakeModel other;
  const auto published = create_adapter(msplora_config(), other.target(), 1);
  EXPECT_EQ(adapter->trainable_count(ParameterGroup::kAdapter),
            published->trainable_count(ParameterGroup::kAdapter));
}

TEST(Msplora, CountsAgreeWithTheTensors) {
  for (const int64_t levels : {1, 2, 3, 4}) {
    FakeModel model;
    AdapterConfig config = msplora_config();
    config.levels = levels;
    config.target_modules = {"query", "intermediate.dense", "output.dense"};
    const auto adapter = create_adapter(config, model.target(), 1);
    const ParameterCount count = count_parameters(config, model.target().sites, 12, {"classifier"});
    EXPECT_EQ(adapter->trainable_count(ParameterGroup::kAdapter), count.total) << levels;
    EXPECT_EQ(count.per_level.size(), static_cast<size_t>(levels));
  }
}

TEST(Msplora, DeltaIsTheSumOfScaledProducts) {
  FakeModel model;
  AdapterConfig config = msplora_config();
  config.alphas = {5.0, 7.0, 11.0};
  const auto adapter = create_adapter(config, model.target(), 1);
  testing::randomize(*adapter);
  const c10::NoGradGuard no_grad;
  const std::string path = kBlock + "6.attention.self.value";
  const auto factor = [&](int layer, const char* which, int level) {
    return tensor_named(*adapter, kBlock + std::to_string(layer) + ".attention.self.value.lora_" + which +
                                      "." + std::to_string(level) + ".weight");
  };
  const at::Tensor expected = at::mm(factor(0, "B", 0), factor(0, "A", 0)) * (5.0 / 8) +
                              at::mm(factor(4, "B", 1), factor(4, "A", 1)) * (7.0 / 4) +
                              at::mm(factor(6, "B", 2), factor(6, "A", 2)) * (11.0 / 2);
  size_t index = 0;
  while (adapter->sites()[index].path != path) ++index;
  EXPECT_TRUE(at::allclose(adapter->change_of(index).weight, expected, 1e-5, 1e-6));
}

TEST(Msplora, DropoutStreamsAreOnePerSiteAndLevel) {
  FakeModel model;
  AdapterConfig config = msplora_config();
  config.dropouts = {0.1, 0.2, 0.3};
  const auto adapter = create_adapter(config, model.target(), 1);
  std::set<uint64_t> streams;
  for (size_t i = 0; i < adapter->sites().size(); ++i) {
    const auto terms = adapter->terms(i);
    for (size_t k = 0; k < 3; ++k) {
      streams.insert(terms[k].dropout_stream);
      EXPECT_EQ(terms[k].dropout, config.dropouts[k]);
    }
  }
  EXPECT_EQ(streams.size(), 72u);
}

TEST(Msplora, RanksGivenOrHalved) {
  const auto ranks_of = [](const AdapterConfig& config) {
    FakeModel model;
    std::vector<int64_t> ranks;
    const auto adapter = create_adapter(config, model.target(), 1);
    for (const LowRankTerm& term : adapter->terms(0)) ranks.push_back(term.down.size(0));
    return ranks;
  };
  AdapterConfig config = msplora_config();
  config.rank = 6;
  EXPECT_THAT(ranks_of(config), ElementsAre(6, 3, 1));
  config = msplora_config();
  config.ranks = {10, 10, 3, 2};
  EXPECT_THAT(ranks_of(config), ElementsAre(10, 10, 3, 2));
  config = msplora_config();
  config.use_rslora = true;
  FakeModel model;
  EXPECT_DOUBLE_EQ(create_adapter(config, model.target(), 1)->terms(0)[1].scaling, 8.0);
}

TEST(Msplora, StagewiseTrainsOneLevelAtATime) {
  FakeModel model;
  AdapterConfig config = msplora_config();
  config.stagewise = true;
  const auto adapter = create_adapter(config, model.target(), 1);
  const auto active = [&](Adapter& a, int64_t step, int64_t total) {
    const std::set<std::string> names = a.begin_step({step, total}).frozen;
    std::set<int64_t> levels;
    for (const TrainableTensor& entry : a.trainable()) {
      if (entry.group == ParameterGroup::kHead) {
        EXPECT_EQ(names.count(entry.name), 0u);
      } else if (names.count(entry.name) == 0) {
        levels.insert(entry.level);
      }
    }
    EXPECT_EQ(levels.size(), 1u);
    return *levels.begin();
  };
  // 80 epochs in three stages: 27, 27, 26.
  std::vector<int> lengths(3);
  for (int64_t step = 0; step < 80; ++step) ++lengths[static_cast<size_t>(active(*adapter, step, 80))];
  EXPECT_THAT(lengths, ElementsAre(27, 27, 26));
  EXPECT_EQ(active(*adapter, 80, 80), 2);

  config.stage_fractions = {0.1, 0.2, 0.7};
  adapter->detach();
  const auto uneven = create_adapter(config, model.target(), 1);
  lengths.assign(3, 0);
  for (int64_t step = 0; step < 10; ++step) ++lengths[static_cast<size_t>(active(*uneven, step, 10))];
  EXPECT_THAT(lengths, ElementsAre(1, 2, 7));
  config.stagewise = false;
  config.stage_fractions.clear();
  uneven->detach();
  EXPECT_THAT(create_adapter(config, model.target(), 1)->begin_step({0, 80}).frozen, IsEmpty());
}

TEST(Lora, ScalingRankAndAlphaPatterns) {
  FakeModel model;
  AdapterConfig config = lora_config();
  config.rank_pattern = {{"layer.1.attention.self.query", 4}, {"value", 2}};
  config.alpha_pattern = {{R"(layer\.[23]\..*)", 32.0}};
  const auto adapter = create_adapter(config, model.target(), 1);
  const auto check = [&](size_t index, int64_t rank, double scaling) {
    const LowRankTerm term = adapter->terms(index).at(0);
    EXPECT_EQ(term.down.size(0), rank) << adapter->sites()[index].path;
    EXPECT_EQ(term.up.size(1), rank);
    EXPECT_DOUBLE_EQ(term.scaling, scaling) << adapter->sites()[index].path;
  };
  check(0, 8, 2.0);   // layer 0 query
  check(1, 2, 8.0);   // layer 0 value
  check(2, 4, 4.0);   // layer 1 query
  check(4, 8, 4.0);   // layer 2 query
  check(5, 2, 16.0);  // layer 2 value
  check(22, 8, 2.0);  // layer 11 query
}

TEST(Lora, RsloraScaling) {
  FakeModel::Options options;
  options.hidden = 64;
  options.layers = 1;
  FakeModel model(options);
  AdapterConfig config = lora_config(64);
  config.use_rslora = true;
  EXPECT_DOUBLE_EQ(create_adapter(config, model.target(), 1)->terms(0)[0].scaling, 2.0);
}

TEST(Lora, InitialFactors) {
  FakeModel::Options options;
  options.hidden = 64;
  FakeModel model(options);
  const auto adapter = create_adapter(lora_config(), model.target(), 7);
  double sum_squares = 0, count = 0;
  for (size_t i = 0; i < adapter->sites().size(); ++i) {
    const LowRankTerm term = adapter->terms(i)[0];
    EXPECT_EQ(term.up.abs().max().item<float>(), 0.0f);
    EXPECT_LE(term.down.abs().max().item<float>(), 1.0f / 8.0f);
    sum_squares += term.down.square().sum().item<double>();
    count += static_cast<double>(term.down.numel());
  }
  EXPECT_NEAR(sum_squares / count, 1.0 / (3 * 64), 0.02 / (3 * 64));  // variance of U(-1/8, 1/8)
  AdapterConfig config = lora_config();
  config.init = "gaussian";
  FakeModel other(options);
  const auto gaussian = create_adapter(config, other.target(), 7);
  sum_squares = 0;
  for (size_t i = 0; i < gaussian->sites().size(); ++i)
    sum_squares += gaussian->terms(i)[0].down.square().sum().item<double>();
  EXPECT_NEAR(sum_squares / count, 1.0 / 64, 0.03 / 64);  // standard deviation 1/r = 1/8
}

TEST(Lora, InitialFactorsDependOnSeedAndNameAlone) {
  FakeModel all, one, other;
  AdapterConfig config = lora_config();
  const auto first = create_adapter(config, all.target(), 7);
  config.layers_to_transform = {5};
  const auto second = create_adapter(config, one.target(), 7);
  const auto third = create_adapter(config, other.target(), 8);
  const std::string name = kBlock + "5.attention.self.value.lora_A.weight";
  EXPECT_TRUE(at::equal(tensor_named(*first, name), tensor_named(*second, name)));
  EXPECT_FALSE(at::equal(tensor_named(*second, name), tensor_named(*third, name)));
}

TEST(Lora, FactorsAreFloat32BesideBfloat16AndFloat64BesideFloat64) {
  for (const auto& [dtype, expected] : {std::pair{at::kBFloat16, at::kFloat}, {at::kDouble, at::kDouble}}) {
    FakeModel::Options options;
    options.dtype = dtype;
    FakeModel model(options);
    EXPECT_EQ(create_adapter(lora_config(), model.target(), 1)->terms(0)[0].down.scalar_type(), expected);
  }
}

TEST(Adapter, AttachesAndDetaches) {
  FakeModel model;
  Linear& query = model.linear(kBlock + "3.attention.self.query");
  Linear& key = model.linear(kBlock + "3.attention.self.key");
  {
    const auto adapter = create_adapter(lora_config(), model.target(), 1);
    EXPECT_TRUE(adapter->attached());
    ASSERT_NE(query.update, nullptr);
    EXPECT_TRUE(query.update->low_rank[0].down.is_same(adapter->terms(6)[0].down));
    EXPECT_EQ(key.update, nullptr);
    EXPECT_THAT(error_text([&] { create_adapter(lora_config(), model.target(), 1); }),
                HasSubstr("already carries an adapter"));
    EXPECT_NE(query.update, nullptr);
    adapter->detach();
    EXPECT_EQ(query.update, nullptr);
    adapter->attach();
    adapter->attach();
    EXPECT_NE(query.update, nullptr);
  }
  EXPECT_EQ(query.update, nullptr);
}

TEST(Adapter, OnlyWhatIsTrainedRequiresGradients) {
  FakeModel model;
  for (const Parameter& parameter : model.parameters()) parameter.values().requires_grad_(true);
  AdapterConfig config = lora_config();
  config.bias = "lora_only";
  config.modules_to_save = {"layer.2.output"};
  const auto adapter = create_adapter(config, model.target(), 1);
  std::map<ParameterGroup, std::set<std::string>> names;
  for (const TrainableTensor& entry : adapter->trainable()) {
    names[entry.group].insert(entry.name);
    EXPECT_TRUE(entry.tensor.requires_grad() && entry.tensor.is_leaf());
    EXPECT_EQ(entry.tensor.scalar_type(), at::kFloat);
  }
  EXPECT_EQ(names[ParameterGroup::kBias].size(), 24u);
  EXPECT_THAT(names[ParameterGroup::kHead],
              ElementsAre("classifier.dense.bias", "classifier.dense.weight", "classifier.out_proj.bias",
                          "classifier.out_proj.weight", kBlock + "2.output.dense.bias",
                          kBlock + "2.output.dense.weight"));
  for (const Parameter& parameter : model.parameters()) {
    const bool trained = names[ParameterGroup::kBias].count(parameter.name) +
                             names[ParameterGroup::kHead].count(parameter.name) >
                         0;
    EXPECT_EQ(parameter.values().requires_grad(), trained) << parameter.name;
  }
  // The layers compute with the very tensors that are trained.
  EXPECT_TRUE(model.linear("classifier.dense").weight->values().requires_grad());
  EXPECT_TRUE(tensor_named(*adapter, "classifier.dense.weight")
                  .is_same(model.linear("classifier.dense").weight->values()));
}

TEST(Adapter, BiasAllTakesNormsToo) {
  FakeModel model;
  AdapterConfig config = lora_config();
  config.bias = "all";
  const auto adapter = create_adapter(config, model.target(), 1);
  EXPECT_EQ(adapter->trainable_count(ParameterGroup::kBias), 12 * (5 * 16 + 32) + 16);
  EXPECT_TRUE(model.parameter("roberta.embeddings.LayerNorm.bias").requires_grad());
  EXPECT_FALSE(model.parameter("roberta.embeddings.LayerNorm.weight").requires_grad());
}

TEST(Adapter, TrainedMatricesBecomeFloat32CopiesOfTheirOwn) {
  FakeModel::Options options;
  options.dtype = at::kBFloat16;
  FakeModel model(options);
  Linear& dense = model.linear(kBlock + "2.output.dense");
  const at::Tensor before = dense.weight->values().detach().clone();
  const at::Tensor alias = dense.weight->values().detach();
  AdapterConfig config = lora_config();
  config.modules_to_save = {"layer.2.output"};
  const auto adapter = create_adapter(config, model.target(), 1);
  EXPECT_EQ(dense.weight->values().scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(dense.weight->values().to(at::kBFloat16), before));
  testing::randomize(*adapter);
  EXPECT_TRUE(at::equal(alias, before));
}

TEST(Adapter, HeadOnly) {
  FakeModel model;
  AdapterConfig config;
  config.method = "none";
  const auto adapter = create_adapter(config, model.target(), 1);
  EXPECT_EQ(adapter->trainable_count(ParameterGroup::kAdapter), 0);
  EXPECT_EQ(adapter->trainable_count(ParameterGroup::kHead), 16 * 16 + 16 + 3 * 16 + 3);
  EXPECT_TRUE(adapter->sites().empty());
  FakeModel::Options options;
  options.llama = true;
  FakeModel decoder(options);
  EXPECT_THAT(error_text([&] { create_adapter(config, decoder.target(), 1); }),
              HasSubstr("nothing to train"));
}

TEST(AdapterErrors, UnknownMethodNamesTheNearest) {
  FakeModel model;
  AdapterConfig config;
  config.method = "msplra";
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              HasSubstr("did you mean `msplora`?"));
  config.method = "quantum";
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              HasSubstr("known: msplora, lora, "));
}

TEST(AdapterErrors, RankAboveADimensionListsTheSites) {
  FakeModel model;
  AdapterConfig config = lora_config(24);
  config.target_modules = {"query", "intermediate.dense"};
  std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(
      text,
      HasSubstr(
          "adapter.rank: rank 24 is larger than a dimension of query [16, 16] x12, dense [32, 16] x12"));
  EXPECT_THAT(text, HasSubstr("at most 16"));
  config.rank = 8;
  config.rank_pattern = {{"layer.3.attention.self.query", 17}};
  text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text,
              HasSubstr("adapter.rank_pattern: rank 17 is larger than a dimension of query [16, 16] x1"));
}

TEST(AdapterErrors, AllAtOnce) {
  FakeModel model;
  AdapterConfig config;
  config.ranks = {4, 8};
  config.layer_groups = {0};
  config.mid_groups = 2;
  config.alphas = {1, 2, 3};
  config.dropouts = {0.1};
  config.bias = "some";
  config.target_modules = {"query", "valu"};
  config.modules_to_save = {"poolerr"};
  config.rank_pattern = {{"query", 4}};
  config.stage_fractions = {0.5, 0.4};
  const std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  // A value out of its range is reported before the checks that build on it.
  EXPECT_THAT(text, HasSubstr("adapter.bias: must be `none`, `lora_only` or `all`, but is `some`"));
  EXPECT_THAT(text, HasSubstr("nearest to `valu` is `value`"));
  EXPECT_THAT(text, HasSubstr("adapter.modules_to_save: `poolerr` matches no module"));
  config.bias = "none";
  const std::string rest = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(rest, HasSubstr("adapter.layer_groups: has 1 entry, but the model has"));
  EXPECT_THAT(rest, HasSubstr("adapter.mid_groups: adapter.layer_groups says which layers share"));
  EXPECT_THAT(rest, HasSubstr("adapter.alphas: has 3 entries, but there are 2 levels"));
  EXPECT_THAT(rest, HasSubstr("adapter.dropouts: has 1 entry, but there are 2 levels"));
  EXPECT_THAT(rest, HasSubstr("adapter.rank_pattern: belongs to method lora"));
  EXPECT_THAT(rest, HasSubstr("adapter.stage_fractions: has no effect without stagewise"));
  EXPECT_THAT(rest, HasSubstr("must sum to 1, but sum to 0.9"));
  EXPECT_THAT(rest, HasSubstr("nearest to `valu` is `value`"));
}

TEST(AdapterErrors, ValuesOutOfRange) {
  FakeModel model;
  AdapterConfig config = lora_config(0);
  config.alpha = std::nan("");
  config.dropout = 1.0;
  const std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text, HasSubstr("adapter.rank: must be at least 1, but is 0"));
  EXPECT_THAT(text, HasSubstr("adapter.alpha: must be above 0, but is nan"));
  EXPECT_THAT(text, HasSubstr("adapter.dropout: must be a number in [0, 1), but is 1"));
}

TEST(AdapterErrors, OptionsOfAnotherMethod) {
  FakeModel model;
  AdapterConfig config = lora_config();
  config.ranks = {8, 4};
  config.stagewise = true;
  config.rank_pattern = {{"qery", 4}, {"(", 4}};
  const std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text, HasSubstr("adapter.ranks: belongs to method msplora"));
  EXPECT_THAT(text, HasSubstr("adapter.stagewise: belongs to method msplora"));
  EXPECT_THAT(text, HasSubstr("`qery` matches no targeted module"));
  EXPECT_THAT(text, HasSubstr("is no regular expression"));
}

TEST(AdapterErrors, Biases) {
  FakeModel::Options options;
  options.bias_dtype = at::kBFloat16;
  FakeModel half(options);
  AdapterConfig config = lora_config();
  config.bias = "lora_only";
  EXPECT_THAT(
      error_text([&] { create_adapter(config, half.target(), 1); }),
      HasSubstr("0.attention.self.query.bias is bfloat16, but trained biases and norms must be float32"));
  options.llama = true;
  FakeModel decoder(options);
  config.target_modules = {"q_proj"};
  EXPECT_THAT(error_text([&] { create_adapter(config, decoder.target(), 1); }),
              HasSubstr("no targeted module has a bias"));
  FakeModel model;
  config = lora_config();
  config.bias = "all";
  AdapterTarget target = model.target();
  for (Parameter& parameter : target.parameters)
    parameter = Parameter(parameter.name, parameter.values().clone());
  EXPECT_THAT(error_text([&] { create_adapter(config, target, 1); }),
              HasSubstr("is not what the layer computes with"));
}

TEST(AdapterErrors, ShapesAlone) {
  AdapterTarget target = FakeModel().target();
  for (Site& site : target.sites) site.linear = nullptr;
  EXPECT_THAT(error_text([&] { create_adapter(lora_config(), target, 1); }),
              HasSubstr("only its shape is known"));
}

TEST(Fingerprint, IgnoresHeadsAndComputeTypeAndSeesWeights) {
  FakeModel::Options options;
  FakeModel model(options);
  const auto of = [](const FakeModel& m) { return fingerprint(m.parameters(), {"classifier"}); };
  const uint64_t expected = of(model);
  EXPECT_NE(expected, 0u);
  options.dtype = at::kBFloat16;
  EXPECT_EQ(of(FakeModel(options)), expected);
  options.labels = 5;
  EXPECT_EQ(of(FakeModel(options)), expected);
  FakeModel::Options another;
  another.seed = 2;
  EXPECT_NE(of(FakeModel(another)), expected);
  model.linear("classifier.dense").weight->values().add_(1.0);
  EXPECT_EQ(of(model), expected);
  model.linear(kBlock + "11.output.dense").weight->values().mul_(1.5);
  EXPECT_NE(of(model), expected);
}

}  // namespace
}  // namespace msplora
