#include "msplora/train/optimizer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

at::Tensor parameter(std::vector<double> values, at::ScalarType dtype = at::kDouble) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kDouble);
  std::copy(values.begin(), values.end(), tensor.data_ptr<double>());
  return tensor.to(dtype).requires_grad_(true);
}

void set_grad(at::Tensor& tensor, const std::vector<double>& values) {
  tensor.mutable_grad() = parameter(values, tensor.scalar_type()).detach();
}

/// The algorithm as printed in the paper, with the moments corrected one by one.
struct Reference {
  double lr, decay, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double m = 0, v = 0;
  int t = 0;
  double step(double p, double g) {
    ++t;
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    const double m_hat = m / (1 - std::pow(beta1, t));
    const double v_hat = v / (1 - std::pow(beta2, t));
    return p - lr * decay * p - lr * m_hat / (std::sqrt(v_hat) + eps);
  }
};

TEST(AdamW, FirstStepByHand) {
  at::Tensor p = parameter({1.0, -2.0});
  AdamW optimizer({}, {{"group", 0.1, 0.1, {{"p", p}}}});
  set_grad(p, {0.5, -3.0});
  optimizer.step(1.0);
  // The first corrected step is lr * sign(g); the decay takes 1% away.
  EXPECT_NEAR(p[0].item<double>(), 0.99 - 0.1, 1e-8);
  EXPECT_NEAR(p[1].item<double>(), -1.98 + 0.1, 1e-8);
}

class AdamWDtype : public testing::TestWithParam<at::ScalarType> {};

TEST_P(AdamWDtype, FollowsTheRecurrences) {
  const double tolerance = GetParam() == at::kDouble ? 1e-13 : 2e-6;
  const int64_t count = 70000;  // enough for several threads
  RandomStream random(1, "adamw");
  at::Tensor p = at::empty({count}, at::kDouble);
  for (int64_t i = 0; i < count; ++i) p.data_ptr<double>()[i] = random.normal();
  std::vector<double> expected(p.data_ptr<double>(), p.data_ptr<double>() + count);
  std::vector<Reference> references(static_cast<size_t>(count), Reference{3e-3, 0.05});
  p = p.to(GetParam()).requires_grad_(true);
  AdamW optimizer({}, {{"group", 6e-3, 0.05, {{"p", p}}}});
  for (int step = 0; step < 6; ++step) {
    at::Tensor gradient = at::empty({count}, at::kDouble);
    for (int64_t i = 0; i < count; ++i) {
      const double g = random.normal() * std::pow(10.0, static_cast<double>(i % 5) - 3);
      gradient.data_ptr<double>()[i] = g;
      expected[static_cast<size_t>(i)] =
          references[static_cast<size_t>(i)].step(expected[static_cast<size_t>(i)], 0.25 * g);
    }
    p.mutable_grad() = gradient.to(GetParam());
    optimizer.step(0.5, 0.25);
  }
  const at::Tensor result = p.detach().to(at::kDouble);
  double worst = 0;
  for (int64_t i = 0; i < count; ++i) {
    worst = std::max(worst, std::abs(result.data_ptr<double>()[i] - expected[static_cast<size_t>(i)]));
  }
  EXPECT_LT(worst, tolerance);
}

INSTANTIATE_TEST_SUITE_P(Types, AdamWDtype, testing::Values(at::kFloat, at::kDouble));

TEST(AdamW, GroupsHaveTheirOwnLearningRateAndDecay) {
  at::Tensor a = parameter({1.0});
  at::Tensor b = parameter({1.0});
  AdamW optimizer({}, {{"adapter", 0.1, 0.0, {{"a", a}}}, {"head", 0.01, 0.5, {{"b", b}}}});
  set_grad(a, {2.0});
  set_grad(b, {2.0});
  optimizer.step(1.0);
  EXPECT_NEAR(a.item<double>(), 0.9, 1e-8);
  EXPECT_NEAR(b.item<double>(), 0.995 - 0.01, 1e-8);
}

TEST(AdamW, FrozenAndUntouchedTensorsStay) {
  at::Tensor a = parameter({1.0});
  at::Tensor b = parameter({1.0});
  AdamW optimizer({}, {{"group", 0.1, 0.5, {{"a", a}, {"b", b}}}});
  set_grad(a, {2.0});
  optimizer.step(1.0, 1.0, {"a"});  // a is frozen, b has no gradient
  EXPECT_EQ(a.item<double>(), 1.0);
  EXPECT_EQ(b.item<double>(), 1.0);
  for (const NamedTensor& entry : optimizer.state()) {
    EXPECT_EQ(entry.tensor.to(at::kDouble).abs().sum().item<double>(), 0.0);
  }
  optimizer.step(1.0);  // the first step of a, so bias correction starts here
  EXPECT_NEAR(a.item<double>(), 0.95 - 0.1, 1e-8);
}

TEST(AdamW, ContinuesFromItsState) {
  at::Tensor a = parameter({1.0, 2.0, 3.0}, at::kFloat);
  AdamW first({}, {{"group", 0.1, 0.01, {{"a", a}}}});
  for (int i = 0; i < 3; ++i) {
    set_grad(a, {0.1 * i, -0.3, 1.0});
    first.step(1.0);
  }
  at::Tensor copy = a.detach().clone().requires_grad_(true);
  std::vector<NamedTensor> state;
  for (const NamedTensor& entry : first.state()) state.push_back({entry.name, entry.tensor.clone()});
  AdamW second({}, {{"group", 0.1, 0.01, {{"a", copy}}}});
  second.load_state(state, "test");
  for (at::Tensor* tensor : {&a, &copy}) set_grad(*tensor, {0.7, 0.2, -0.1});
  first.step(0.5);
  second.step(0.5);
  EXPECT_TRUE(at::equal(a, copy));
}

TEST(AdamW, NamesEveryStateEntryThatDoesNotFit) {
  at::Tensor a = parameter({1.0, 2.0});
  AdamW optimizer({}, {{"group", 0.1, 0.0, {{"a", a}}}});
  std::vector<NamedTensor> state = {{"a.exp_avg", at::zeros({3}, at::kDouble)},
                                    {"b.exp_avg", at::zeros({1})}};
  try {
    optimizer.load_state(state, "here");
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const char* part :
         {"a.exp_avg", "[3]", "[2]", "a.exp_avg_sq", "a.step", "missing", "b.exp_avg", "unexpected"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
    }
  }
}

TEST(AdamW, RefusesWhatItCannotTrain) {
  const at::Tensor half = at::zeros({2}, at::kBFloat16);
  EXPECT_THROW(AdamW({}, {{"group", 0.1, 0.0, {{"a", half}}}}), Error);
  const at::Tensor a = parameter({1.0});
  EXPECT_THROW(AdamW({}, {{"group", 0.1, 0.0, {{"a", a}, {"a", a}}}}), Error);
  EXPECT_THROW(AdamW({}, {{"group", 0.1, 0.0, {{"a", at::zeros({2, 3}).t()}}}}), Error);
}

/// After a reset the tensor is stepped as in a new optimizer; the others go on.
TEST(AdamW, ResetForgetsTheStepsOfOneTensor) {
  const auto tensor = [](double value) { return at::full({3}, value, at::kDouble).requires_grad_(true); };
  at::Tensor a = tensor(1.0), b = tensor(1.0), fresh = tensor(0.0), going_on = tensor(1.0);
  AdamW optimizer({}, {{"all", 0.1, 0.0, {{"a", a}, {"b", b}}}});
  AdamW other({}, {{"all", 0.1, 0.0, {{"b", going_on}}}});
  const auto step = [](AdamW& stepped, const std::vector<at::Tensor>& tensors, double gradient) {
    for (at::Tensor tensor : tensors) tensor.mutable_grad() = at::full({3}, gradient, at::kDouble);
    stepped.step(1.0);
  };
  for (const double gradient : {3.0, -1.0}) {
    step(optimizer, {a, b}, gradient);
    step(other, {going_on}, gradient);
  }
  optimizer.reset("a");
  {
    const c10::NoGradGuard no_grad;
    fresh.copy_(a);
  }
  AdamW anew({}, {{"all", 0.1, 0.0, {{"a", fresh}}}});
  for (const double gradient : {0.5, 2.0}) {
    step(optimizer, {a, b}, gradient);
    step(anew, {fresh}, gradient);
    step(other, {going_on}, gradient);
  }
  EXPECT_TRUE(at::equal(a, fresh));
  EXPECT_TRUE(at::equal(b, going_on));
  EXPECT_FALSE(at::equal(a, b));
  EXPECT_THROW(optimizer.reset("c"), Error);
}

}  // namespace
}  // namespace msplora
