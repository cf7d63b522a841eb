// Flat-LoRA, LoRA-Pro, XGBLoRA and GeLoRA without a training loop: options, counts, plans, noise.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "adapters/method.h"
#include "error_text.h"
#include "msplora/adapters/adapter.h"
#include "msplora/adapters/gelora.h"

namespace msplora {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FakeModel;
using ::testing::HasSubstr;
using ::testing::Not;

AdapterConfig usual_config(const std::string& method) {
  AdapterConfig config;
  config.method = method;
  config.target_modules = {"query", "value"};
  return config;
}

const NoiseSource& noise_of(const Adapter& adapter, size_t site) {
  return *adapter.sites()[site].linear->update->noise;
}

TEST(FlatLora, DeviationsAreThoseOfTheRowsOfTheMergedWeight) {
  FakeModel::Options options;
  options.hidden = 64;
  options.layers = 2;
  FakeModel model(options);
  AdapterConfig config = usual_config("flatlora");
  config.set("flatlora.rho", 0.3);
  config.set("flatlora.schedule", "constant");
  const auto adapter = create_adapter(config, model.target(), 1);
  testing::randomize(*adapter);
  adapter->begin_step({5, 10});
  for (size_t i = 0; i < adapter->sites().size(); ++i) {
    const at::Tensor merged = adapter->sites()[i].linear->weight->values() + adapter->change_of(i).weight;
    const at::Tensor expected = merged.norm(2, 1) * (0.3 / 8.0);
    EXPECT_TRUE(at::allclose(noise_of(*adapter, i).deviations, expected, 1e-5, 1e-7)) << i;
  }
  EXPECT_NE(noise_of(*adapter, 0).stream, noise_of(*adapter, 1).stream);
}

/// eq. 7 divides by the root of the inputs, which the rows have, whatever the number of outputs.
TEST(FlatLora, DeviationsGoByTheInputsOfALayer) {
  FakeModel::Options options;
  options.hidden = 16;
  options.wide = 64;
  options.layers = 1;
  FakeModel model(options);
  AdapterConfig config = usual_config("flatlora");
  config.target_modules = {"intermediate.dense", "output.dense"};
  config.set("flatlora.rho", 0.3);
  config.set("flatlora.schedule", "constant");
  const auto adapter = create_adapter(config, model.target(), 1);
  testing::randomize(*adapter);
  adapter->begin_step({0, 10});
  std::set<int64_t> inputs;
  for (size_t i = 0; i < adapter->sites().size(); ++i) {
    const Site& site = adapter->sites()[i];
    inputs.insert(site.in_features);
    const at::Tensor merged = site.linear->weight->values() + adapter->change_of(i).weight;
    const at::Tensor expected = merged.norm(2, 1) * (0.3 / std::sqrt(static_cast<double>(site.in_features)));
    EXPECT_TRUE(at::allclose(noise_of(*adapter, i).deviations, expected, 1e-5, 1e-7)) << site.path;
  }
  EXPECT_THAT(inputs, ElementsAre(16, 64));
}

/// Noise on every layer and nothing else.
class NoiseAlone : public Adapter {
 public:
  explicit NoiseAlone(const AdapterTarget& target) : Adapter({}, target, target.sites) { attach(); }
  std::vector<LowRankTerm> terms(size_t) const override { return {}; }
  SiteUpdate update_of(size_t site_index) const override {
    auto noise = std::make_shared<NoiseSource>();
    noise->deviations = at::ones({sites_[site_index].out_features});
    SiteUpdate update;
    update.noise = std::move(noise);
    return update;
  }
};

TEST(Adapter, PutsOnAnUpdateThatIsNoiseAlone) {
  FakeModel model;
  Linear& linear = model.linear(model.target().sites[0].path);
  const at::Tensor x = at::ones({2, linear.in_features()});
  const at::Tensor plain = linear.forward(x, testing::training_context());
  {
    const NoiseAlone adapter(model.target());
    EXPECT_FALSE(at::equal(linear.forward(x, testing::training_context()), plain));
    EXPECT_TRUE(at::equal(linear.forward(x, {}), plain));  // none outside of training
  }
  EXPECT_TRUE(at::equal(linear.forward(x, testing::training_context()), plain));
}

TEST(FlatLora, StrengthFollowsTheSchedule) {
  FakeModel::Options options;
  options.layers = 1;
  const auto strengths = [&](const std::string& schedule) {
    FakeModel model(options);
    AdapterConfig config = usual_config("flatlora");
    config.set("flatlora.rho", 0.2);
    config.set("flatlora.schedule", schedule);
    const auto adapter = create_adapter(config, model.target(), 1);
    const double norm =
        adapter->sites()[0].linear->weight->values()[0].norm().item<double>() / 4.0;  // sqrt(16)
    std::vector<double> values;
    for (const int64_t step : {0, 25, 50, 75, 100}) {
      adapter->begin_step({step, 100});
      const at::Tensor deviations = noise_of(*adapter, 0).deviations;
      values.push_back(deviations.defined() ? deviations[0].item<double>() / norm : 0.0);
    }
    return values;
  };
  const auto near = [](double value) { return ::testing::DoubleNear(value, 1e-6); };
  const double early = 0.1 * (1.0 - std::sqrt(0.5));
  EXPECT_THAT(strengths("cosine"),
              ElementsAre(near(0), near(early), near(0.1), near(0.2 - early), near(0.2)));
  EXPECT_THAT(strengths("linear"), ElementsAre(near(0), near(0.05), near(0.1), near(0.15), near(0.2)));
  EXPECT_THAT(strengths("constant"), ElementsAre(near(0.2), near(0.2), near(0.2), near(0.2), near(0.2)));
}

TEST(EventMethods, KeepLorasOptionsAndCounts) {
  for (const char* method : {"flatlora", "lorapro"}) {
    FakeModel model;
    AdapterConfig config = usual_config(method);
    config.rank_pattern = {{"query", 4}};
    config.alpha_pattern = {{"value", 3.0}};
    const auto adapter = create_adapter(config, model.target(), 1);
    EXPECT_TRUE(detail::method_of(*adapter).peft.keeps_lora_options);
    EXPECT_EQ(adapter->terms(0)[0].down.size(0), 4);
    EXPECT_DOUBLE_EQ(adapter->terms(1)[0].scaling, 3.0 / 8.0);
    EXPECT_EQ(adapter->trainable_count(ParameterGroup::kAdapter), 12 * 32 * (4 + 8));
    config.ranks = {4, 2};
    adapter->detach();
    EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }), HasSubstr("adapter.ranks"));
  }
}

TEST(EventMethods, RefuseOptionsOfOneAnother) {
  FakeModel model;
  AdapterConfig config = usual_config("flatlora");
  config.set("lorapro.mode", "efficient");
  config.set("gelora.max_rank", 4);
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              AllOf(HasSubstr("adapter.lorapro.mode"), HasSubstr("adapter.gelora.max_rank"),
                    Not(HasSubstr("adapter.flatlora"))));
  config = usual_config("flatlora");
  config.set("flatlora.rho", -0.1);
  config.set("flatlora.schedule", "cosinus");
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              AllOf(HasSubstr("adapter.flatlora.rho"), HasSubstr("did you mean `cosine`")));
}

TEST(LoraPro, RefusesDropout) {
  FakeModel model;
  AdapterConfig config = usual_config("lorapro");
  config.dropout = 0.1;
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }), HasSubstr("adapter.dropout"));
}

TEST(XgbLora, RoundsAndLayers) {
  FakeModel model;  // 12 layers
  const AdapterConfig config = usual_config("xgblora");
  const auto adapter = create_adapter(config, model.target(), 1);
  // A third of 12 layers, each 8 times on average: 24 rounds.
  EXPECT_EQ(adapter->begin_step({0, 100}).frozen.size(), 8u * 2u * 2u);
  int64_t merged_rows = 0;
  for (const NamedTensor& tensor : adapter->state().tensors) {
    if (tensor.name.ends_with("merged_A.weight")) merged_rows += tensor.tensor.size(0);
  }
  EXPECT_EQ(merged_rows, 23 * 4 * 2);
  EXPECT_EQ(adapter->trainable_count(ParameterGroup::kAdapter), 12 * 2 * 32);
  EXPECT_EQ(adapter->config().get("xgblora.seed"), 1);

  // The choice of layers depends on its seed alone.
  FakeModel second, third;
  AdapterConfig seeded = config;
  seeded.set("xgblora.seed", 1);
  EXPECT_EQ(create_adapter(seeded, second.target(), 77)->begin_step({0, 1}).frozen,
            adapter->begin_step({0, 1}).frozen);
  seeded.set("xgblora.seed", 2);
  EXPECT_NE(create_adapter(seeded, third.target(), 1)->begin_step({0, 1}).frozen,
            adapter->begin_step({0, 1}).frozen);
}

TEST(XgbLora, TheScalingIsAlphaOverTheRankOfABooster) {
  AdapterConfig config = usual_config("xgblora");
  const auto scaling_of = [&] {
    FakeModel model;
    const auto adapter = create_adapter(config, model.target(), 1);
    for (size_t i = 0; i < adapter->sites().size(); ++i) {
      for (const LowRankTerm& term : adapter->terms(i)) return term.scaling;
    }
    return 0.0;
  };
  EXPECT_DOUBLE_EQ(scaling_of(), 16.0);
  config.set("xgblora.booster_rank", 4);
  config.alpha = 6.0;
  EXPECT_DOUBLE_EQ(scaling_of(), 1.5);
  config.use_rslora = true;
  EXPECT_DOUBLE_EQ(scaling_of(), 3.0);
  config = usual_config("xgblora");
  config.set("xgblora.scaling", 0.25);
  EXPECT_DOUBLE_EQ(scaling_of(), 0.25);
}

/// Whether the number of rounds divides the run or not, all of them are made, each as long but for one step.
TEST(XgbLora, AllPlannedRoundsFallIntoTheRun) {
  struct : OptimizerControl {
    void reset(const std::string&) override {}
  } no_resets;
  for (const int64_t total : {48, 49, 100, 350}) {
    FakeModel model;
    const auto adapter = create_adapter(usual_config("xgblora"), model.target(), 1);  // 24 rounds
    ::testing::internal::CaptureStderr();
    adapter->begin_step({0, total});
    EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
    int64_t rounds = 1, last = 0;
    for (int64_t step = 1; step <= total; ++step) {
      const auto before = adapter->state().facts;
      adapter->end_step({step, total}, no_resets);
      if (adapter->state().facts == before) continue;
      EXPECT_GE(step - last, total / 24);
      EXPECT_LE(step - last, (total + 23) / 24);
      last = step;
      ++rounds;
    }
    EXPECT_EQ(rounds, 24) << total;
    EXPECT_GE(total - last, 2);
  }
}

TEST(XgbLora, FewerRoundsThanPlannedAreSaid) {
  FakeModel model;
  const auto adapter = create_adapter(usual_config("xgblora"), model.target(), 1);
  ::testing::internal::CaptureStderr();
  adapter->begin_step({0, 20});
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("xgblora: 10 of 24 rounds fall into the 20 steps"));
}

TEST(XgbLora, RefusesWhatItWouldIgnore) {
  FakeModel model;
  AdapterConfig config = usual_config("xgblora");
  config.alpha = 3.0;
  config.set("xgblora.scaling", 2.0);
  config.rank_pattern = {{"query", 2}};
  config.set("xgblora.layers_per_round", 13);
  config.set("xgblora.booster_rank", 17);
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              AllOf(HasSubstr("adapter.xgblora.scaling"), HasSubstr("adapter.rank_pattern"),
                    HasSubstr("only 12 layers"), HasSubstr("adapter.xgblora.booster_rank")));
}

// Counts of one round from the shapes alone: 2 modules of 768 x 768 in a layer.
TEST(XgbLora, CountsOfRobertaBase) {
  const ParameterCount count =
      count_parameters(usual_config("xgblora"), testing::roberta_sites(12, 768, 0), 12);
  EXPECT_EQ(count.total, 12 * 3072);
}

TEST(GeLora, RanksFollowTheGrowthOfTheDimension) {
  GeLoraOptions options;
  const std::vector<double> dimensions = {5, 8, 8, 6, 9};
  EXPECT_THAT(gelora_ranks(dimensions, options), ElementsAre(4, 1, 1, 4));
  EXPECT_THAT(gelora_ranks({9.0, 7.2, 7.1, 3.0}, options), ElementsAre(1, 1, 1));
  options.max_rank = 3;
  EXPECT_THAT(gelora_ranks(dimensions, options), ElementsAre(3, 1, 1, 3));
  options.max_rank = 0;
  const std::vector<double> between = {5.4, 6.6, 8.2, 8.5};
  EXPECT_THAT(gelora_ranks(between, options), ElementsAre(3, 2, 2));  // 5 7 8 9
  options.rounding = "difference";
  EXPECT_THAT(gelora_ranks(between, options), ElementsAre(2, 3, 1));
  options.rounding = "up";
  EXPECT_THAT(gelora_ranks(between, options), ElementsAre(3, 3, 2));
  EXPECT_THAT(error_text([&] { gelora_ranks({1.0, NAN}, options); }), HasSubstr("layer 1"));
}

TEST(GeLora, LayersHaveTheirRanksAndOneScaling) {
  FakeModel model;
  AdapterConfig config = usual_config("gelora");
  config.target_modules = {"query", "key", "value", "attention.output.dense"};
  const std::vector<int64_t> ranks = {1, 2, 3, 4, 1, 1, 1, 1, 1, 1, 1, 2};
  config.set("gelora.layer_ranks", ranks);
  const auto adapter = create_adapter(config, model.target(), 1);
  for (size_t i = 0; i < adapter->sites().size(); ++i) {
    const LowRankTerm term = adapter->terms(i)[0];
    EXPECT_EQ(term.down.size(0), ranks[static_cast<size_t>(adapter->sites()[i].layer)]);
    EXPECT_DOUBLE_EQ(term.scaling, 32.0);
  }
  EXPECT_EQ(adapter->trainable_count(ParameterGroup::kAdapter), 4 * 32 * 19);
  // 6144 for each rank of a layer with d = 768.
  config.set("gelora.layer_ranks", std::vector<int64_t>(12, 1));
  EXPECT_EQ(count_parameters(config, testing::roberta_sites(12, 768, 0), 12).total, 73728);
}

TEST(GeLora, RefusesWhatItCannotRank) {
  FakeModel model;
  AdapterConfig config = usual_config("gelora");
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              AllOf(HasSubstr("adapter.gelora.layer_ranks"), HasSubstr("train")));
  // Without ranks the least that they can be is counted.
  EXPECT_EQ(count_parameters(config, testing::roberta_sites(12, 768, 0), 12).total, 12 * 2 * 1536);
  config.set("gelora.layer_ranks", {1, 2});
  config.rank = 4;
  config.use_rslora = true;
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              AllOf(HasSubstr("has 2 entries"), HasSubstr("adapter.rank"), HasSubstr("adapter.use_rslora")));
}

}  // namespace
}  // namespace msplora
