// Parameters of the base that adapters train (heads, biases, saved modules): whose values are in the model
// when.
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "conformance/harness.h"
#include "error_text.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/merge.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using testing::FakeModel;
using ::testing::HasSubstr;
using testing::TinyModel;

AdapterConfig trained_base_config(const std::string& method) {
  AdapterConfig config;
  config.method = method;
  if (method == "lora") {
    config.rank = 2;
    config.target_modules = {"query"};
    config.bias = "all";
    config.modules_to_save = {"layer.1.output"};
  }
  return config;
}

std::map<std::string, at::Tensor> values_of(const std::vector<Parameter>& parameters) {
  std::map<std::string, at::Tensor> values;
  for (const Parameter& parameter : parameters) values[parameter.name] = parameter.values().detach().clone();
  return values;
}

/// The names of those that differ.
std::vector<std::string> changed(const std::map<std::string, at::Tensor>& before,
                                 const std::vector<Parameter>& parameters) {
  std::vector<std::string> names;
  for (const Parameter& parameter : parameters) {
    if (!at::equal(parameter.values(), before.at(parameter.name))) names.push_back(parameter.name);
  }
  return names;
}

TEST(TrainedBase, AdaptersTakeTurnsWithTheirOwnHeadsAndLeaveTheBase) {
  for (const char* method : {"lora", "none", "bitfit", "full"}) {
    SCOPED_TRACE(method);
    TinyModel model("roberta");
    const std::vector<Parameter> parameters = model.model().parameters();
    parameters.front().values().requires_grad_(true);
    const auto base = values_of(parameters);
    const at::Tensor plain = model.logits();
    auto a = create_adapter(trained_base_config(method), model.target(), 1);
    testing::randomise(*a);
    const at::Tensor of_a = model.logits();
    a->detach();
    EXPECT_FALSE(a->attached());
    EXPECT_TRUE(at::equal(model.logits(), plain));
    auto b = create_adapter(trained_base_config(method), model.target(), 2);
    testing::randomise(*b, 0.3);
    const at::Tensor of_b = model.logits();
    EXPECT_FALSE(at::equal(of_a, of_b));
    b->detach();
    a->attach();
    EXPECT_TRUE(at::equal(model.logits(), of_a));
    EXPECT_FALSE(changed(base, parameters).empty());
    a->detach();
    b->attach();
    EXPECT_TRUE(at::equal(model.logits(), of_b));
    a.reset();
    b.reset();
    EXPECT_TRUE(at::equal(model.logits(), plain));
    EXPECT_THAT(changed(base, parameters), ::testing::IsEmpty());
    for (const Parameter& parameter : parameters) {
      EXPECT_EQ(parameter.tensor().defined() && parameter.tensor().requires_grad(),
                parameter.name == parameters.front().name)
          << parameter.name;
    }
  }
}

TEST(TrainedBase, WhatIsTrainedAfterItWasOffIsTheAdapters) {
  TinyModel model("roberta");
  const auto base = values_of(model.model().parameters());
  const auto adapter = create_adapter(trained_base_config("lora"), model.target(), 1);
  adapter->detach();
  adapter->attach();
  model.loss({}).backward();
  {
    const c10::NoGradGuard no_grad;
    for (const TrainableTensor& entry : adapter->trainable()) {
      ASSERT_TRUE(entry.tensor.requires_grad() && entry.tensor.grad().defined()) << entry.name;
      at::Tensor(entry.tensor).sub_(entry.tensor.grad());
    }
  }
  const at::Tensor stepped = model.logits();
  adapter->detach();
  EXPECT_THAT(changed(base, model.model().parameters()), ::testing::IsEmpty());
  adapter->attach();
  EXPECT_TRUE(at::equal(model.logits(), stepped));
}

TEST(TrainedBase, ADetachedAdapterIsSavedWithItsOwnHead) {
  TinyModel model("roberta");
  const auto adapter = create_adapter(trained_base_config("lora"), model.target(), 1);
  testing::randomise(*adapter);
  const at::Tensor adapted = model.logits();
  adapter->detach();
  const TemporaryDirectory directory;
  save_native_adapter(*adapter, directory.path() / "native");
  save_peft_adapter(*adapter, directory.path() / "peft");
  for (const char* form : {"native", "peft"}) {
    const auto read = load_adapter(directory.path() / form, model.target());
    EXPECT_LT((model.logits() - adapted).abs().max().item<double>(), 1e-6) << form;
  }
}

TEST(TrainedBase, IsOfOneAttachedAdapterAlone) {
  FakeModel model;
  AdapterConfig config = trained_base_config("lora");
  const auto first = create_adapter(config, model.target(), 1);
  testing::randomize(*first);
  const auto values = values_of(model.parameters());
  config.target_modules = {"value"};
  EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { create_adapter(config, model.target(), 2); }),
              HasSubstr("another adapter that is on the model trains it, too"));
  EXPECT_THAT(changed(values, model.parameters()), ::testing::IsEmpty());
  EXPECT_EQ(model.linear(model.target().sites[1].path).update, nullptr);
  // Where they train nothing in common, both are on.
  FakeModel::Options options;
  options.llama = true;
  options.layers = 2;
  FakeModel decoder(options);
  AdapterConfig own;
  own.method = "lora";
  own.target_modules = {"q_proj"};
  const auto q = create_adapter(own, decoder.target(), 1);
  own.target_modules = {"v_proj"};
  EXPECT_TRUE(create_adapter(own, decoder.target(), 1)->attached());
}

TEST(Merging, KeepsWhatIsTrainedOfTheBaseAndIsDoneOnce) {
  TinyModel model("roberta");
  auto adapter = create_adapter(trained_base_config("lora"), model.target(), 1);
  testing::randomise(*adapter);
  const at::Tensor adapted = model.logits();
  adapter->detach();  // it need not be on
  EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { merge_adapter(*adapter, at::kInt); }), HasSubstr("Int"));
  merge_adapter(*adapter, at::kFloat);
  EXPECT_FALSE(adapter->attached());
  const at::Tensor merged = model.logits();
  EXPECT_LT((merged - adapted).abs().max().item<double>(), 1e-5);
  EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { merge_adapter(*adapter, at::kFloat); }),
              HasSubstr("merged before"));
  EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { adapter->attach(); }), HasSubstr("it was merged"));
  adapter->detach();
  adapter.reset();
  EXPECT_TRUE(at::equal(model.logits(), merged));
  // The merged model is a base like any other.
  EXPECT_TRUE(create_adapter(trained_base_config("lora"), model.target(), 1)->attached());
}

TEST(SaveModel, RefusesTypesOfIntegersAndAdapters) {
  TinyModel model("roberta");
  const TemporaryDirectory directory;
  EXPECT_THAT(
      error_text(ErrorCode::kUsage, [&] { save_model(model.model(), directory.path() / "x", at::kInt); }),
      HasSubstr("expected one of float32, bfloat16, float16, float64, found int32"));
  const auto adapter = create_adapter(trained_base_config("lora"), model.target(), 1);
  EXPECT_THAT(
      error_text(ErrorCode::kUsage, [&] { save_model(model.model(), directory.path() / "x", at::kFloat); }),
      HasSubstr("carries an adapter"));
  EXPECT_FALSE(std::filesystem::exists(directory.path() / "x"));
  adapter->detach();
  save_model(model.model(), directory.path() / "x", at::kFloat);
}

/// The layers of a model that is gone are not looked at; here they are still there to be looked at.
TEST(Adapter, LeavesTheLayersOfAModelThatIsGoneAlone) {
  FakeModel model;
  AdapterTarget target = model.target();
  auto life = std::make_shared<int>();
  target.lifetime = life;
  auto adapter = create_adapter(trained_base_config("lora"), target, 1);
  Linear& layer = *adapter->sites()[0].linear;
  life.reset();
  EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { adapter->attach(); }), HasSubstr("its model is gone"));
  adapter.reset();
  EXPECT_NE(layer.update, nullptr);
}

TEST(Adapter, KnowsWhenItsModelIsGone) {
  auto model = std::make_unique<TinyModel>("roberta");
  const AdapterTarget target = model->target();
  ASSERT_TRUE(target.lifetime && !target.lifetime->expired());
  auto adapter = create_adapter(trained_base_config("lora"), target, 1);
  model.reset();
  EXPECT_TRUE(target.lifetime->expired());
  adapter.reset();
}

TEST(Adapter, WhatMethodsTrainOfTheBaseIsNamedWhereItIsMissing) {
  FakeModel::Options options;
  options.llama = true;  // neither biases nor a head
  FakeModel model(options);
  EXPECT_THAT(error_text(ErrorCode::kConfig,
                         [&] { create_adapter(trained_base_config("bitfit"), model.target(), 1); }),
              HasSubstr("`bitfit` trains biases and heads, and this model has neither"));
}

/// What a program adds by a class of its own.
class OwnAdapter : public Adapter {
 public:
  explicit OwnAdapter(const AdapterTarget& target) : Adapter({}, target, target.sites) {
    for (const Site& site : sites_) {
      downs_.push_back(add_trainable(site.path + ".down", at::ones({1, site.in_features})));
      ups_.push_back(add_trainable(site.path + ".up", at::ones({site.out_features, 1})));
    }
    attach();
  }
  std::vector<LowRankTerm> terms(size_t site) const override { return {{downs_[site], ups_[site], 1.0}}; }

 private:
  std::vector<at::Tensor> downs_, ups_;
};

TEST(Adapter, OneOfAnotherClassIsNotSavedUnderTheNameOfAMethod) {
  FakeModel model;
  const OwnAdapter adapter(model.target());
  const TemporaryDirectory directory;
  const std::filesystem::path place = directory.path() / "own";
  EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { save_native_adapter(adapter, place); }),
              HasSubstr("class of its own"));
  EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { save_peft_adapter(adapter, place); }),
              HasSubstr("class of its own"));
  EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { save_gguf_adapter(adapter, GgufType::kF32, place); }),
              HasSubstr("class of its own"));
  EXPECT_FALSE(std::filesystem::exists(place));
}

}  // namespace
}  // namespace msplora
