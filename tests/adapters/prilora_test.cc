#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
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

#include <numeric>

#include "adapters/file_helpers.h"
#include "error_text.h"
#include "msplora/models/model.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using namespace testing;  // helpers of the adapter tests
using ::testing::ElementsAre;
using ::testing::HasSubstr;

AdapterConfig prilora(int64_t rank = 8) {
  AdapterConfig config = config_of("prilora");
  config.rank = rank;
  return config;
}

std::vector<int64_t> planned_ranks(const AdapterConfig& config, int64_t layers = 12) {
  FakeModel::Options options;
  options.layers = layers;
  options.hidden = 24;
  FakeModel model(options);
  return query_ranks(*create_adapter(config, model.target(), 1));
}

struct NoOptimizer : OptimizerControl {
  void reset(const std::string& name) override { FAIL() << "moments stay as they are: " << name; }
};

void end_step(Adapter& adapter, int64_t step, int64_t total_steps = 1000) {
  NoOptimizer none;
  adapter.end_step({step, total_steps}, none);
}

at::Tensor input_norm(const Adapter& adapter, size_t site) {
  return adapter.state().tensors.at(site).tensor;
}

int64_t zeros(const at::Tensor& tensor) {
  return tensor.eq(0).sum().item<int64_t>();
}

TEST(Prilora, RanksGrowLinearlyToTheNearest) {
  const std::vector<int64_t> ranks = planned_ranks(prilora());
  EXPECT_THAT(ranks, ElementsAre(4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12));
  EXPECT_EQ(std::accumulate(ranks.begin(), ranks.end(), int64_t{0}), 96);
  EXPECT_THAT(planned_ranks(prilora(), 1), ElementsAre(4));
  AdapterConfig config = prilora();
  config.set("prilora.first_rank", 10);
  EXPECT_THAT(planned_ranks(config, 3), ElementsAre(10, 8, 6));  // falling, mean 8
  config.set("prilora.last_rank", 2);
  EXPECT_THAT(planned_ranks(config, 3), ElementsAre(10, 6, 2));
  config.set("prilora.first_rank", nullptr);
  EXPECT_THAT(planned_ranks(config, 3), ElementsAre(14, 8, 2));
  EXPECT_THAT(planned_ranks(prilora(1), 3), ElementsAre(1, 1, 1));
}

TEST(Prilora, LayersLeftOutDoNotChangeTheRanksOfOthers) {
  AdapterConfig config = prilora();
  config.layers_to_transform = {0, 3, 11};
  EXPECT_THAT(planned_ranks(config), ElementsAre(4, 6, 12));
}

TEST(Prilora, CountsOfDeberta) {
  const std::vector<Site> sites = sites_of_shape(known_model_shape("deberta-v3-base"), ModelTask::kMaskedLm);
  AdapterConfig config = prilora();
  config.target_modules = {"query_proj",         "key_proj",    "value_proj", "attention.output.dense",
                           "intermediate.dense", "output.dense"};
  EXPECT_EQ(count_parameters(config, sites, 12).total, 1327104);
  config.method = "lora";
  EXPECT_EQ(count_parameters(config, sites, 12).total, 1327104);
}

TEST(Prilora, ScalingOfEachLayerOrOfTheMean) {
  FakeModel model, other;
  AdapterConfig config = prilora();
  config.alpha = 24.0;
  const auto own = create_adapter(config, model.target(), 1);
  EXPECT_DOUBLE_EQ(own->terms(0)[0].scaling, 6.0);
  EXPECT_DOUBLE_EQ(own->terms(23)[0].scaling, 2.0);
  config.set("prilora.scaling", "mean");
  const auto mean = create_adapter(config, other.target(), 1);
  EXPECT_DOUBLE_EQ(mean->terms(0)[0].scaling, 3.0);
  EXPECT_DOUBLE_EQ(mean->terms(23)[0].scaling, 3.0);
}

TEST(Prilora, RunningNormsOfTheInputsInTraining) {
  FakeModel model;
  AdapterConfig config = prilora();
  config.set("prilora.beta", 0.75);
  config.dropout = 0.5;  // the norms are those of the input before it
  const auto adapter = create_adapter(config, model.target(), 1);
  const Linear& layer = model.linear(adapter->sites()[0].path);
  const at::Tensor a = at::arange(32, at::kFloat).reshape({2, 16}) / 7, b = -2.0 * a.slice(0, 0, 1);
  layer.forward(a, {});
  EXPECT_EQ(input_norm(*adapter, 0).abs().max().item<double>(), 0.0);
  adapter->begin_step({0, 10});
  layer.forward(a, training_context());
  adapter->gradients_ready({0, 10});
  const at::Tensor first = 0.25 * a.norm(2, 0);
  EXPECT_TRUE(at::allclose(input_norm(*adapter, 0), first));
  // Two micro-batches of one step count one after the other.
  adapter->begin_step({1, 10});
  layer.forward(b, training_context());
  layer.forward(a, training_context());
  ASSERT_EQ(adapter->reduced_state().front()->size(0), 2);
  adapter->gradients_ready({1, 10});
  const at::Tensor second = 0.75 * first + 0.25 * b.abs().squeeze(0);
  EXPECT_TRUE(at::allclose(input_norm(*adapter, 0), 0.75 * second + first));
  EXPECT_EQ(input_norm(*adapter, 1).abs().max().item<double>(), 0.0);
}

TEST(Prilora, EachRowLosesTheShareAskedForAndMayReviveIt) {
  for (const double fraction : {0.5, 0.3, 0.05}) {
    FakeModel model;
    AdapterConfig config = prilora();
    config.set("prilora.prune_fraction", fraction);
    config.set("prilora.prune_every", 5);
    const auto adapter = create_adapter(config, model.target(), 1);
    randomize(*adapter);
    const auto per_row = static_cast<int64_t>(fraction * 16);
    for (const Site& site : adapter->sites()) {
      model.linear(site.path).forward(at::ones({3, 16}), training_context());
    }
    for (const int64_t step : {1, 4}) end_step(*adapter, step);
    EXPECT_EQ(zeros(adapter->terms(3)[0].down), 0);
    end_step(*adapter, 5);
    for (size_t i = 0; i < adapter->sites().size(); ++i) {
      const LowRankTerm term = adapter->terms(i)[0];
      EXPECT_EQ(zeros(term.up), 0);
      for (int64_t row = 0; row < term.down.size(0); ++row) EXPECT_EQ(zeros(term.down[row]), per_row);
    }
    if (per_row == 0) continue;
    // No mask: a step with gradients everywhere brings the entries back.
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < adapter->sites().size(); ++i) adapter->terms(i)[0].down.add_(1e-3);
    end_step(*adapter, 6);
    EXPECT_EQ(zeros(adapter->terms(3)[0].down), 0);
  }
}

TEST(Prilora, ImportanceIsTheProductOfEntryAndNorm) {
  FakeModel model;
  AdapterConfig config = prilora();
  config.set("prilora.prune_every", 1);
  config.set("prilora.prune_fraction", 0.25);
  const auto adapter = create_adapter(config, model.target(), 1);
  const c10::NoGradGuard no_grad;
  const at::Tensor places = at::arange(16, at::kFloat);
  // Equal norms: the smallest entries go, whatever their sign.
  at::Tensor down = adapter->terms(0)[0].down;
  down.copy_((places + 1.0) * (1.0 - 2.0 * places.remainder(2)));
  input_norm(*adapter, 0).fill_(3.0);
  // Equal entries: the inputs with the smallest norms go.
  at::Tensor equal = adapter->terms(1)[0].down;
  equal.fill_(-0.5);
  input_norm(*adapter, 1).copy_(16.0 - places);
  end_step(*adapter, 1);
  for (int64_t row = 0; row < down.size(0); ++row) {
    EXPECT_TRUE(at::equal(down[row].eq(0), places.lt(4)));
    EXPECT_TRUE(at::equal(equal[row].eq(0), places.ge(12)));
  }
}

TEST(Prilora, PrunesAfterTheLastStepOnRequestAlone) {
  for (const bool final_prune : {false, true}) {
    for (const int64_t total : {40, 50}) {  // with and without an event on the last step
      FakeModel model;
      AdapterConfig config = prilora();
      config.set("prilora.final_prune", final_prune);
      const auto adapter = create_adapter(config, model.target(), 1);
      randomize(*adapter);
      end_step(*adapter, total, total);
      EXPECT_EQ(zeros(adapter->terms(0)[0].down) > 0, final_prune);
    }
  }
  FakeModel model;
  AdapterConfig config = prilora();
  config.set("prilora.prune_every", 0);
  const auto adapter = create_adapter(config, model.target(), 1);
  end_step(*adapter, 40);
  EXPECT_EQ(zeros(adapter->terms(0)[0].down), 0);
  EXPECT_FALSE(model.linear(adapter->sites()[0].path).update->observe_input);
}

TEST(Prilora, Files) {
  TemporaryDirectory directory, peft;
  FakeModel model, other, third;
  const auto saved = create_adapter(prilora(), model.target(), 3);
  randomize(*saved);
  model.linear(saved->sites()[4].path).forward(at::ones({3, 16}), training_context());
  saved->gradients_ready({0, 10});
  save_native_adapter(*saved, directory.path());
  const auto loaded = load_adapter(directory.path(), other.target());
  expect_same_update(*saved, *loaded);
  EXPECT_TRUE(at::equal(input_norm(*loaded, 4), input_norm(*saved, 4)));
  EXPECT_GT(input_norm(*loaded, 4).max().item<double>(), 0.1);

  save_peft_adapter(*saved, peft.path());
  const json file = read_json(peft.path() / "adapter_config.json");
  EXPECT_EQ(file["peft_type"], "LORA");
  EXPECT_EQ(file["rank_pattern"][R"(^roberta\.encoder\.layer\.0\.attention\.self\.query)"], 4);
  EXPECT_EQ(file["rank_pattern"][R"(^roberta\.encoder\.layer\.11\.attention\.self\.value)"], 12);
  EXPECT_EQ(file["rank_pattern"], file["alpha_pattern"]);
  const auto lora = load_adapter(peft.path(), third.target());
  EXPECT_EQ(query_ranks(*lora), query_ranks(*saved));
  expect_same_update(*saved, *lora);
}

TEST(Prilora, Errors) {
  FakeModel model;
  AdapterConfig config = prilora();
  config.set("prilora.first_rank", 16);
  config.rank_pattern = {{"query", 4}};
  config.stagewise = true;
  std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text, HasSubstr("adapter.prilora.first_rank: 16 leaves 0 for the other end"));
  EXPECT_THAT(text, HasSubstr("adapter.rank_pattern: belongs to method lora"));
  EXPECT_THAT(text, HasSubstr("adapter.stagewise: belongs to method msplora; prilora would ignore it"));
  config = prilora(12);
  text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text, HasSubstr("adapter.prilora: rank 18 is larger than a dimension of query [16, 16] x1"));
  config.set("prilora.prune_fraction", 1.0);
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              HasSubstr("adapter.prilora.prune_fraction: must be a number in [0, 1), but is 1"));
}

}  // namespace
}  // namespace msplora
