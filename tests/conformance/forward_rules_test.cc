#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "conformance/harness.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/random.h"

namespace msplora::testing {
namespace {

TEST_P(Conformance, StartsAtTheBase) {
  if (!row().starts_at_base) GTEST_SKIP() << "the method starts elsewhere, as its row says";
  TinyModel model("roberta");
  const at::Tensor before = model.logits();
  const auto adapter = create_adapter(row().config, model.target(), 1);
  EXPECT_TRUE(at::equal(model.logits(), before));
  for (size_t i = 0; i < adapter->sites().size(); ++i) {
    EXPECT_EQ(adapter->change_of(i).weight.abs().max().item<double>(), 0.0) << adapter->sites()[i].path;
  }
}

TEST_P(Conformance, DetachingGivesTheBaseBack) {
  TinyModel model("roberta");
  const auto parameters = model.model().parameters();
  std::vector<at::Tensor> stored;
  for (const Parameter& parameter : parameters) stored.push_back(parameter.values().detach().clone());
  const at::Tensor before = model.logits();
  {
    const auto adapter = create_adapter(row().config, model.target(), 1);
    randomise(*adapter);
    const at::Tensor adapted = model.logits();
    adapter->detach();
    EXPECT_TRUE(at::equal(model.logits(), before));
    for (const Site& site : model.model().sites()) EXPECT_EQ(site.linear->update, nullptr) << site.path;
    adapter->attach();
    EXPECT_TRUE(at::equal(model.logits(), adapted));
  }
  for (const Site& site : model.model().sites()) EXPECT_EQ(site.linear->update, nullptr) << site.path;
  for (size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_TRUE(at::equal(parameters[i].values(), stored[i])) << parameters[i].name;
  }
}

/// What a layer computes is linear in its input; the identity shows its matrix.
TEST_P(Conformance, DeltaWeightIsWhatTheLayerAdds) {
  TinyModel model("roberta");
  const auto adapter = create_adapter(row().config, model.target(), 1);
  randomise(*adapter);
  c10::NoGradGuard no_grad;
  double largest = 0.0;
  for (size_t i = 0; i < adapter->sites().size(); ++i) {
    const Site& site = adapter->sites()[i];
    const at::Tensor at_zero = site.linear->forward(at::zeros({1, site.in_features}), {});
    const at::Tensor effective = (site.linear->forward(at::eye(site.in_features), {}) - at_zero).t();
    const at::Tensor delta = adapter->change_of(i).weight;
    EXPECT_LT((effective - site.linear->weight->values() - delta).abs().max().item<double>(), 1e-5)
        << site.path;
    largest = std::max(largest, delta.abs().max().item<double>());
  }
  if (!adapter->sites().empty()) {
    EXPECT_GT(largest, 1e-3) << "the rule compared zeros";
  }
}

/// A tensor that is shared moves every layer of its scope and no other; each is trained once.
TEST_P(Conformance, TensorsMoveExactlyTheirScope) {
  TinyModel model("roberta");
  const auto adapter = create_adapter(row().config, model.target(), 1);
  randomise(*adapter);
  c10::NoGradGuard no_grad;
  std::vector<Site> all = model.model().sites();
  std::erase_if(all, [](const Site& site) { return site.role == LinearRole::kWords; });  // looked up
  const auto outputs = [&] {
    std::vector<at::Tensor> outputs;
    for (const Site& site : all) {
      const at::Tensor x = at::arange(3 * site.in_features, at::kFloat).reshape({3, -1}).mul(0.7).sin();
      outputs.push_back(site.linear->forward(x, {}));
    }
    return outputs;
  };
  const std::vector<at::Tensor> before = outputs();
  std::set<const void*> storages;
  for (const TrainableTensor& entry : adapter->trainable()) {
    EXPECT_TRUE(storages.insert(entry.tensor.data_ptr()).second) << entry.name << " shares its storage";
    std::set<std::string> expected;
    if (row().scope && entry.group == ParameterGroup::kAdapter) {
      expected = row().scope(entry, adapter->sites());
    } else {
      for (const Site& site : all) {
        if (entry.name.starts_with(site.path + ".")) expected.insert(site.path);
      }
    }
    const at::Tensor kept = entry.tensor.clone();
    at::Tensor(entry.tensor).add_(0.25);
    const std::vector<at::Tensor> after = outputs();
    at::Tensor(entry.tensor).copy_(kept);
    std::set<std::string> moved;
    for (size_t i = 0; i < all.size(); ++i) {
      if (!at::equal(after[i], before[i])) moved.insert(all[i].path);
    }
    EXPECT_EQ(moved, expected) << entry.name;
  }
}

/// Along one random direction for each tensor, so that every element takes part. Only tensors that rest in
/// the step may have no gradient.
void check_gradients(TinyModel& model, const Adapter& adapter, const ForwardContext& context,
                     const std::set<std::string>& resting) {
  for (const TrainableTensor& entry : adapter.trainable()) at::Tensor(entry.tensor).mutable_grad().reset();
  model.loss(context).backward();
  c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter.trainable()) {
    SCOPED_TRACE(entry.name);
    if (!entry.tensor.grad().defined()) {
      EXPECT_TRUE(resting.contains(entry.name));
      continue;
    }
    at::Tensor value = entry.tensor;
    // Biases and norms are float32 in every model.
    const bool is_exact = value.scalar_type() == at::kDouble;
    at::Tensor direction = at::empty(value.sizes(), at::kDouble);
    RandomStream stream(23, entry.name);
    for (int64_t i = 0; i < direction.numel(); ++i) direction.data_ptr<double>()[i] = stream.normal();
    direction = (direction * (is_exact ? 3e-6 : 2e-3)).to(value.scalar_type());
    const at::Tensor kept = value.clone();
    value.add_(direction);
    const at::Tensor above = value.to(at::kDouble, false, true);
    const double up = model.loss(context).item<double>();
    value.copy_(kept).sub_(direction);
    const at::Tensor below = value.to(at::kDouble, false, true);
    const double down = model.loss(context).item<double>();
    value.copy_(kept);
    const double predicted = (entry.tensor.grad().to(at::kDouble) * (above - below)).sum().item<double>();
    const double tolerance =
        is_exact ? 1e-5 * std::abs(predicted) + 1e-10 : 2e-3 * std::abs(predicted) + 1e-6;
    EXPECT_NEAR(predicted, up - down, tolerance);
  }
}

TEST_P(Conformance, GradientsAgreeWithFiniteDifferences) {
  for (const bool with_dropout : {false, true}) {
    if (with_dropout && !row().takes_dropout) continue;
    SCOPED_TRACE(with_dropout ? "with dropout" : "without dropout");
    TinyModel model("roberta", at::kDouble);
    AdapterConfig config = row().config;
    if (with_dropout && config.dropout == 0.0) config.dropout = 0.25;
    const auto adapter = create_adapter(config, model.target(), 1);
    randomise(*adapter);
    adapter->begin_step({0, row().steps});
    ForwardContext context;
    context.training = with_dropout;
    context.seed = 5;
    context.step = 3;
    context.micro_batch = 1;
    check_gradients(model, *adapter, context, adapter->begin_step({0, row().steps}).frozen);
  }
}

TEST_P(Conformance, CountsFollowTheFormula) {
  TinyModel model("roberta");
  const AdapterTarget target = model.target();
  const auto adapter = create_adapter(row().config, target, 1);
  const int64_t trainable = adapter->trainable_count(ParameterGroup::kAdapter);
  ASSERT_TRUE(row().count) << "the row gives no formula";
  EXPECT_EQ(trainable, row().count(adapter->sites(), adapter->target()));
  const ParameterCount counted = count_parameters(row().config, target.sites, TinyModel::kLayers,
                                                  target.heads, target.head_modules, target.parameters);
  EXPECT_EQ(trainable, counted.total);
  int64_t levels = 0;
  for (const int64_t count : counted.per_level) levels += count;
  EXPECT_EQ(levels, counted.total);
}

TEST_P(Conformance, TheSeedDecidesTheStart) {
  TinyModel one("roberta"), two("roberta");
  const auto first = create_adapter(row().config, one.target(), 9);
  const auto second = create_adapter(row().config, two.target(), 9);
  ASSERT_EQ(first->trainable().size(), second->trainable().size());
  for (size_t i = 0; i < first->trainable().size(); ++i) {
    const TrainableTensor &a = first->trainable()[i], &b = second->trainable()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_TRUE(at::equal(a.tensor, b.tensor)) << a.name;
    EXPECT_TRUE(a.tensor.is_leaf() && a.tensor.requires_grad() && a.tensor.is_contiguous()) << a.name;
  }
}

}  // namespace
}  // namespace msplora::testing
