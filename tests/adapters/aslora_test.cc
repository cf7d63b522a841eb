#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
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

#include <set>

#include "adapters/file_helpers.h"
#include "adapters/layer_groups.h"
#include "error_text.h"
#include "msplora/models/model.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using namespace testing;  // helpers of the adapter tests
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

AdapterConfig aslora(std::vector<std::string> modules = {"query", "value"}) {
  AdapterConfig config = config_of("aslora");
  config.target_modules = std::move(modules);
  return config;
}

/// Merges once, after the first step.
AdapterConfig merging_at_once(int64_t merges = 1) {
  AdapterConfig config = aslora({"query"});
  config.set("aslora.start_step", 0);
  config.set("aslora.interval", 1);
  config.set("aslora.merges", merges);
  return config;
}

FakeModel::Options shallow(int64_t layers) {
  FakeModel::Options options;
  options.layers = layers;
  return options;
}

std::string up_of(int64_t layer, const std::string& module = "query") {
  return fmt::format("{}{}.attention.self.{}.lora_B.weight", kBlock, layer, module);
}

/// Also one of those that only training has.
at::Tensor any_tensor(Adapter& adapter, const std::string& name) {
  for (const NamedTensor& entry : adapter.state("adamw").training) {
    if (entry.name == name) return entry.tensor;
  }
  return tensor_named(adapter, name);
}

/// B of a layer: zeros but for the first numbers.
void set_up(Adapter& adapter, int64_t layer, std::vector<float> first) {
  const c10::NoGradGuard no_grad;
  at::Tensor up = any_tensor(adapter, up_of(layer));
  up.zero_();
  for (size_t i = 0; i < first.size(); ++i) up.view({-1})[static_cast<int64_t>(i)] = first[i];
}

struct RecordedResets : OptimizerControl {
  void reset(const std::string& name) override { names.push_back(name); }
  std::vector<std::string> names;
};

/// For each layer of the module, the layer whose B it uses.
std::vector<int64_t> sources(const Adapter& adapter, const std::string& module = "query") {
  std::map<void*, int64_t> owners;
  for (int64_t layer = 0; layer < 12; ++layer) {
    for (const TrainableTensor& entry : adapter.trainable()) {
      if (entry.name == up_of(layer, module)) owners[entry.tensor.data_ptr()] = layer;
    }
  }
  std::vector<int64_t> result;
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    if (adapter.sites()[i].module == module) result.push_back(owners.at(adapter.terms(i)[0].up.data_ptr()));
  }
  return result;
}

TEST(Aslora, CountsBeforeAndAfterTheMerges) {
  const std::vector<Site> sites = sites_of_shape(known_model_shape("roberta-base"), ModelTask::kMaskedLm);
  const auto count = [&](int64_t merges, const std::string& share_a = "module") {
    AdapterConfig config = aslora();
    config.set("aslora.merges", merges);
    config.set("aslora.share_a", share_a);
    return count_parameters(config, sites, 12);
  };
  EXPECT_EQ(count(0).total, 159744);
  EXPECT_EQ(count(0).total_at_end, 159744);
  EXPECT_EQ(count(7).total, 159744);
  EXPECT_EQ(count(7).total_at_end, 73728);
  EXPECT_EQ(count(8).total_at_end, 61440);
  EXPECT_EQ(count(7, "global").total_at_end, 67584);
  AdapterConfig config = aslora();
  EXPECT_EQ(count_parameters(config, sites, 12).total_at_end, 73728);  // 7 unless told otherwise
}

TEST(Aslora, OneAForAModuleNameOrForAll) {
  FakeModel model, other;
  AdapterConfig config = aslora({"query", "value", "intermediate.dense", "output.dense"});
  const auto storages = [](const Adapter& adapter) {
    std::map<std::string, std::set<void*>> by_module;
    for (size_t i = 0; i < adapter.sites().size(); ++i) {
      const Site& site = adapter.sites()[i];
      by_module[fmt::format("{} {}", site.module, site.in_features)].insert(
          adapter.terms(i)[0].down.data_ptr());
    }
    return by_module;
  };
  const auto own = create_adapter(config, model.target(), 1);
  std::set<void*> all;
  for (const auto& [module, pointers] : storages(*own)) {
    if (module != "dense 16") {
      EXPECT_EQ(pointers.size(), 1u) << module;
    }
    all.insert(pointers.begin(), pointers.end());
  }
  EXPECT_EQ(all.size(), 5u);  // query, value, attention's dense, and the two of the feed-forward part
  config.set("aslora.share_a", "global");
  const auto shared = create_adapter(config, other.target(), 1);
  all.clear();
  for (const auto& [module, pointers] : storages(*shared)) all.insert(pointers.begin(), pointers.end());
  EXPECT_EQ(all.size(), 2u);  // 16 inputs and 32 inputs
}

TEST(Aslora, SevenMergesLeaveFiveOfTwelve) {
  FakeModel model;
  const auto adapter = create_adapter(aslora({"query"}), model.target(), 1);
  RecordedResets resets;
  for (int64_t step = 1; step <= 2300; ++step) adapter->end_step({step, 6900}, resets);
  EXPECT_EQ(resets.names.size(), 7u);
  std::set<int64_t> distinct;
  for (const int64_t source : sources(*adapter)) distinct.insert(source);
  EXPECT_EQ(distinct.size(), 5u);
  EXPECT_EQ(adapter->begin_step({2300, 6900}).frozen.size(), 7u);
}

/// Steps of a run at which layers are tied.
std::vector<int64_t> merge_steps(const AdapterConfig& config, int64_t total_steps, int64_t layers = 12) {
  FakeModel model(shallow(layers));
  const auto adapter = create_adapter(config, model.target(), 1);
  RecordedResets resets;
  std::vector<int64_t> steps;
  for (int64_t step = 1; step <= total_steps; ++step) {
    const size_t before = adapter->trainable().size();
    adapter->end_step({step, total_steps}, resets);
    if (adapter->trainable().size() < before) steps.push_back(step);
  }
  return steps;
}

/// In other runs the same shares of the steps.
TEST(Aslora, MergesAreDueAtTheSameSharesOfAnyRun) {
  AdapterConfig config = aslora({"query"});
  EXPECT_THAT(merge_steps(config, 6900), ElementsAre(560, 800, 1040, 1280, 1520, 1760, 2000));
  EXPECT_THAT(merge_steps(config, 690), ElementsAre(56, 80, 104, 128, 152, 176, 200));
  EXPECT_THAT(merge_steps(config, 60), ElementsAre(5, 7, 9, 11, 13, 15, 17));
  EXPECT_THAT(merge_steps(config, 12), ElementsAre(2, 3, 4, 5, 6, 7, 8));
  EXPECT_THAT(merge_steps(config, 690, 3), ElementsAre(56, 80));
  config.set("aslora.start_step", 10);
  EXPECT_THAT(merge_steps(config, 690, 3), ElementsAre(34, 58));
  config.set("aslora.interval", 5);
  EXPECT_THAT(merge_steps(config, 690, 3), ElementsAre(15, 20));
}

TEST(Aslora, MergesThatCannotFallIntoTheRunAreSaid) {
  const auto said = [](const AdapterConfig& config, int64_t total_steps) {
    FakeModel model;
    const auto adapter = create_adapter(config, model.target(), 1);
    ::testing::internal::CaptureStderr();
    adapter->begin_step({0, total_steps});
    return ::testing::internal::GetCapturedStderr();
  };
  AdapterConfig config = aslora({"query"});
  EXPECT_EQ(said(config, 6900), "");
  EXPECT_EQ(said(config, 100), "");
  EXPECT_THAT(said(config, 4), HasSubstr("aslora: 4 of 7 merges fall into the 4 steps"));
  config.set("aslora.start_step", 320);
  config.set("aslora.interval", 240);
  EXPECT_THAT(said(config, 900), HasSubstr("aslora: 2 of 7 merges fall into the 900 steps"));
  EXPECT_THAT(said(config, 500), AllOf(HasSubstr("aslora: none of 7 merges fall into the 500 steps"),
                                       HasSubstr("the last is due at step 2000")));
}

/// From the formula of the paper, without terms() or change_of().
TEST(Aslora, TheUpdateOfALayerIsAlphaOverRankTimesItsBTimesTheCommonA) {
  for (const bool stabilised : {false, true}) {
    FakeModel model(shallow(2));
    AdapterConfig config = aslora({"query"});
    config.rank = 4;
    config.alpha = 6.0;
    config.use_rslora = stabilised;
    const auto adapter = create_adapter(config, model.target(), 1);
    randomize(*adapter);
    const c10::NoGradGuard no_grad;
    const at::Tensor a = any_tensor(*adapter, kBlock + "0.attention.self.query.lora_A.weight");
    const at::Tensor x = at::ones({2, 16});
    for (const int64_t layer : {0, 1}) {
      const Linear& linear = model.linear(fmt::format("{}{}.attention.self.query", kBlock, layer));
      const at::Tensor base = at::linear(x, linear.weight->values(), linear.bias);
      const at::Tensor update = at::linear(at::linear(x, a), any_tensor(*adapter, up_of(layer)));
      const double scaling = stabilised ? 3.0 : 1.5;
      EXPECT_TRUE(at::allclose(linear.forward(x, {}), base + update * scaling, 1e-5, 1e-6)) << layer;
    }
  }
}

TEST(Aslora, RunningMeanOfAConstantAndOfARamp) {
  FakeModel model(shallow(2));
  const auto adapter = create_adapter(aslora({"query"}), model.target(), 1);
  RecordedResets none;
  const at::Tensor mean = any_tensor(*adapter, kBlock + "0.attention.self.query.lora_B.mean");
  const at::Tensor ramp = any_tensor(*adapter, kBlock + "1.attention.self.query.lora_B.mean");
  for (int64_t step = 1; step <= 9; ++step) {
    set_up(*adapter, 0, {0.3F, -7.0F});
    set_up(*adapter, 1, {0.5F * static_cast<float>(step)});
    adapter->end_step({step, 1000}, none);
    EXPECT_TRUE(at::equal(mean, any_tensor(*adapter, up_of(0))));
    EXPECT_NEAR(ramp[0][0].item<double>(), 0.5 * static_cast<double>(step + 1) / 2, 1e-6);
  }
}

TEST(Aslora, TheLowerOfTheClosestNeighboursTakesTheUpperB) {
  FakeModel model(shallow(3));
  const auto adapter = create_adapter(merging_at_once(), model.target(), 1);
  set_up(*adapter, 0, {0.0F, 0.0F});
  set_up(*adapter, 1, {0.2F, 0.0F});
  set_up(*adapter, 2, {0.2F, 1.0F});
  RecordedResets resets;
  adapter->end_step({1, 10}, resets);
  EXPECT_THAT(sources(*adapter), ElementsAre(1, 1, 2));
  EXPECT_THAT(resets.names, ElementsAre(up_of(0)));
  EXPECT_THAT(adapter->begin_step({1, 10}).frozen, ElementsAre(up_of(0)));
  EXPECT_FLOAT_EQ(adapter->terms(0)[0].up.flatten()[0].item<float>(), 0.2F);
  // No more than one merge was asked for.
  adapter->end_step({2, 10}, resets);
  EXPECT_EQ(resets.names.size(), 1u);

  // Both layers compute with the one B, and its gradient is the sum over them.
  const at::Tensor up = any_tensor(*adapter, up_of(1));
  Linear& zero = model.linear(kBlock + "0.attention.self.query");
  Linear& one = model.linear(kBlock + "1.attention.self.query");
  const at::Tensor x = at::ones({2, 16});
  const auto gradient = [&](const at::Tensor& loss) {
    up.mutable_grad().reset();
    loss.backward();
    return up.grad().clone();
  };
  const at::Tensor apart = gradient(zero.forward(x, {}).sum()) + gradient(2.0 * one.forward(x, {}).sum());
  EXPECT_TRUE(at::allclose(gradient(zero.forward(x, {}).sum() + 2.0 * one.forward(x, {}).sum()), apart));
  EXPECT_GT(apart.abs().max().item<double>(), 0.0);
}

TEST(Aslora, AnyPairOrNeighbours) {
  for (const bool any : {false, true}) {
    FakeModel model(shallow(3));
    AdapterConfig config = merging_at_once(2);
    config.set("aslora.pairs", any ? "all" : "adjacent");
    const auto adapter = create_adapter(config, model.target(), 1);
    set_up(*adapter, 0, {0.0F});
    set_up(*adapter, 1, {1.0F});
    set_up(*adapter, 2, {0.1F});
    RecordedResets resets;
    adapter->end_step({1, 10}, resets);
    if (any) {
      EXPECT_THAT(sources(*adapter), ElementsAre(2, 1, 2));
    } else {
      EXPECT_THAT(sources(*adapter), ElementsAre(0, 2, 2));
    }
    // The second merge takes whole groups along.
    adapter->end_step({2, 10}, resets);
    EXPECT_THAT(sources(*adapter), ElementsAre(2, 2, 2));
    adapter->end_step({3, 10}, resets);
    EXPECT_EQ(resets.names.size(), 2u);
  }
}

TEST(Aslora, TiesGoToTheLowestPair) {
  FakeModel model(shallow(4));
  const auto adapter = create_adapter(merging_at_once(), model.target(), 1);
  RecordedResets resets;
  adapter->end_step({1, 10}, resets);
  EXPECT_THAT(sources(*adapter), ElementsAre(1, 1, 2, 3));
}

TEST(Aslora, JointDecisionsMergeTheSameLayersEverywhere) {
  FakeModel model(shallow(3));
  AdapterConfig config = merging_at_once();
  config.target_modules = {"query", "value"};
  config.set("aslora.decision", "joint");
  const auto adapter = create_adapter(config, model.target(), 1);
  const auto set = [&](const char* module, int64_t layer, float value) {
    const c10::NoGradGuard no_grad;
    any_tensor(*adapter, up_of(layer, module)).zero_().view({-1})[0] = value;
  };
  // Query alone would merge 0 and 1 (0.1 against 0.5), both together 1 and 2 (0.5 against about 3).
  for (const auto& [layer, query, value] :
       {std::tuple{0, 0.0F, 0.0F}, std::tuple{1, 0.1F, 3.0F}, std::tuple{2, 0.6F, 3.0F}}) {
    set("query", layer, query);
    set("value", layer, value);
  }
  RecordedResets resets;
  adapter->end_step({1, 10}, resets);
  EXPECT_THAT(sources(*adapter, "query"), ElementsAre(0, 2, 2));
  EXPECT_THAT(sources(*adapter, "value"), ElementsAre(0, 2, 2));
  EXPECT_EQ(resets.names.size(), 2u);
}

TEST(Aslora, CountsShrinkWithTheMerges) {
  FakeModel model(shallow(4));
  const auto adapter = create_adapter(merging_at_once(3), model.target(), 1);
  EXPECT_EQ(adapter->trainable_count(ParameterGroup::kAdapter), 8 * 16 + 4 * 16 * 8);
  RecordedResets resets;
  for (int64_t step = 1; step <= 3; ++step) {
    adapter->end_step({step, 10}, resets);
    EXPECT_EQ(adapter->trainable_count(ParameterGroup::kAdapter), 8 * 16 + (4 - step) * 16 * 8);
  }
  EXPECT_EQ(adapter->trainable_count(ParameterGroup::kHead), 16 * 16 + 16 + 3 * 16 + 3);
}

/// An adapter with three of four layers tied, and numbers in it.
std::unique_ptr<Adapter> merged(FakeModel& model) {
  auto adapter = create_adapter(merging_at_once(2), model.target(), 1);
  RecordedResets resets;
  adapter->end_step({1, 10}, resets);
  adapter->end_step({2, 10}, resets);
  randomize(*adapter);
  return adapter;
}

TEST(Aslora, FilesHoldEachBOnce) {
  TemporaryDirectory directory;
  FakeModel model(shallow(4)), other(shallow(4));
  const auto saved = merged(model);
  save_native_adapter(*saved, directory.path());
  std::set<std::string> names;
  const auto file = SafetensorsFile::open(directory.path() / "adapter.safetensors");
  for (const auto& [name, info] : file->tensors()) {
    if (!name.starts_with("classifier")) names.insert(name);
  }
  EXPECT_THAT(names, ElementsAre(kBlock + "0.attention.self.query.lora_A.weight", up_of(2), up_of(3)));
  const auto loaded = load_adapter(directory.path(), other.target());
  EXPECT_EQ(sources(*loaded), sources(*saved));
  EXPECT_EQ(loaded->state().plan, saved->state().plan);
  const at::Tensor x = at::ones({2, 16});
  for (const Site& site : saved->sites()) {
    EXPECT_TRUE(at::equal(model.linear(site.path).forward(x, {}), other.linear(site.path).forward(x, {})));
  }
  expect_same_update(*saved, *loaded);

  TemporaryDirectory peft;
  FakeModel third(shallow(4));
  save_peft_adapter(*saved, peft.path());
  expect_same_update(*saved, *load_adapter(peft.path(), third.target()));
}

TEST(Aslora, AnEarlierStateUntiesTheLayersAgain) {
  FakeModel model(shallow(4));
  const auto adapter = create_adapter(merging_at_once(2), model.target(), 1);
  const nlohmann::json start = adapter->state().facts;
  const size_t tensors = adapter->trainable().size();
  RecordedResets resets;
  adapter->end_step({1, 10}, resets);
  const nlohmann::json once = adapter->state().facts;
  adapter->end_step({2, 10}, resets);
  EXPECT_EQ(adapter->trainable().size(), tensors - 2);
  adapter->restore(once, RestorePhase::kValues);
  EXPECT_THAT(sources(*adapter), ElementsAre(1, 1, 2, 3));
  adapter->restore(start, RestorePhase::kValues);
  EXPECT_THAT(sources(*adapter), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(adapter->begin_step({0, 10}).frozen, IsEmpty());
  EXPECT_EQ(adapter->trainable().size(), tensors);
  for (const TrainableTensor& entry : adapter->trainable()) EXPECT_TRUE(entry.tensor.requires_grad());
  EXPECT_TRUE(model.linear(kBlock + "0.attention.self.query")
                  .update->low_rank[0]
                  .up.is_same(any_tensor(*adapter, up_of(0))));
}

TEST(Aslora, DamagedStates) {
  FakeModel model(shallow(3));
  const auto adapter = create_adapter(merging_at_once(), model.target(), 1);
  for (const char* state : {"[]", "{}", R"({"families": [{"module": "query", "tops": [0, 1]}]})",
                            R"({"families": [{"module": "query", "tops": [1, 0, 2]}]})",
                            R"({"families": [{"module": "query", "tops": [1, 2, 2]}]})",
                            R"({"families": [{"module": "query", "tops": [0, 1, 7]}]})",
                            R"({"families": [{"module": "key", "tops": [0, 1, 2]}]})",
                            R"({"families": [{"module": "query", "tops": "x"}]})"}) {
    EXPECT_THAT(error_text([&] { adapter->restore(nlohmann::json::parse(state), RestorePhase::kValues); }),
                HasSubstr("state of aslora"))
        << state;
  }
  EXPECT_THAT(sources(*adapter), ElementsAre(0, 1, 2));
}

TEST(Aslora, Errors) {
  FakeModel model(shallow(3));
  AdapterConfig config = aslora();
  config.set("aslora.merges", 3);
  config.set("aslora.interval", 0);
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              HasSubstr("adapter.aslora.interval: must be at least 1, but is 0"));
  config.set("aslora.interval", 1);
  config.set("aslora.decision", "joint");
  config.target_modules = {"query", kBlock + "1.attention.self.value"};
  config.rank_pattern = {{"query", 4}};
  config.ranks = {8, 4};
  config.use_dora = true;
  const std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text, HasSubstr("adapter.aslora.merges: 3 merges, but only 3 layers are adapted (at most 2)"));
  EXPECT_THAT(text, HasSubstr("`joint`, but query is adapted in layers 0 1 2 and value in layers 1"));
  EXPECT_THAT(text, HasSubstr("adapter.rank_pattern: belongs to method lora"));
  EXPECT_THAT(text, HasSubstr("adapter.ranks: belongs to method msplora; aslora would ignore it"));
  EXPECT_THAT(text, HasSubstr("adapter.use_dora"));
}

TEST(LayerGroups, OnlyGroupsAreTakenOver) {
  detail::LayerGroups groups(4);
  EXPECT_FALSE(groups.assign({0, 1, 2}));
  EXPECT_FALSE(groups.assign({0, 0, 2, 3}));  // by the lower layer
  EXPECT_FALSE(groups.assign({1, 2, 2, 3}));  // 1 is no top
  EXPECT_TRUE(groups.assign({3, 2, 2, 3}));
  EXPECT_THAT(groups.tops(), ElementsAre(2, 3));
  EXPECT_EQ(groups.top(0), 3u);
}

}  // namespace
}  // namespace msplora
