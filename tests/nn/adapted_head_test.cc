// A language model's output layer with an update: loss and gradients of its chunks are those of dense logits.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/nn/composed.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/linear_cross_entropy.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;
using testing::relative_difference;

at::Tensor drawn_leaf(at::IntArrayRef shape, const std::string& name, at::ScalarType dtype = at::kDouble,
                      double size = 1.0) {
  return (normals(shape, name) * size).to(dtype).requires_grad_(true);
}

/// A layer of `classes` outputs with two terms, and the dense form of what it computes.
struct HeadCase {
  HeadCase(int64_t rows, int64_t width, int64_t classes, at::ScalarType dtype, at::ScalarType factors)
      : hidden((normals({rows, width}, "hidden")).to(dtype).requires_grad_(true)),
        layer("lm_head", (normals({classes, width}, "weight") * 0.2).to(dtype),
              normals({classes}, "bias").to(factors)),
        down1(drawn_leaf({3, width}, "down 1", factors, 0.3)),
        up1(drawn_leaf({classes, 3}, "up 1", factors, 0.3)),
        down2(drawn_leaf({2, width}, "down 2", factors, 0.3)),
        up2(drawn_leaf({classes, 2}, "up 2", factors, 0.3)),
        labels((at::arange(rows, at::kLong) * 7).remainder(classes)) {
    auto made = std::make_shared<SiteUpdate>();
    made->low_rank = {{down1, up1, 0.7, 0.0, 1}, {down2, up2, 1.5, 0.0, 2}};
    update = made;
    layer.update = made;
  }

  std::vector<at::Tensor> inputs() const { return {hidden, down1, up1, down2, up2}; }

  /// In float64, from x.
  at::Tensor dense_logits(const at::Tensor& x) const {
    const auto exact = [](const at::Tensor& tensor) { return tensor.to(at::kDouble); };
    const at::Tensor change = at::mm(exact(up1), exact(down1)) * 0.7 + at::mm(exact(up2), exact(down2)) * 1.5;
    return at::linear(exact(x), exact(layer.weight->values()) + change, exact(layer.bias));
  }

  at::Tensor hidden;
  Linear layer;
  at::Tensor down1, up1, down2, up2;
  at::Tensor labels;
  std::shared_ptr<SiteUpdate> update;
};

at::Tensor capped(const at::Tensor& logits, double cap) {
  return cap > 0 ? (logits / cap).tanh() * cap : logits;
}

std::vector<at::Tensor> take_gradients(const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& input : inputs) {
    gradients.push_back(input.grad());
    input.mutable_grad().reset();
  }
  return gradients;
}

/// Value and gradients of `got` beside those of `expected`, each relative to its largest.
void expect_same_loss(const std::function<at::Tensor()>& got, const std::function<at::Tensor()>& expected,
                      const std::vector<at::Tensor>& inputs, double tolerance) {
  const at::Tensor value = expected();
  value.backward();
  const std::vector<at::Tensor> gradients = take_gradients(inputs);
  const at::Tensor ours = got();
  EXPECT_LT(relative_difference(ours, value), tolerance);
  ours.backward();
  const std::vector<at::Tensor> own = take_gradients(inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_TRUE(own[i].defined()) << "input " << i;
    EXPECT_EQ(own[i].scalar_type(), inputs[i].scalar_type());
    EXPECT_LT(relative_difference(own[i], gradients[i]), tolerance) << "input " << i;
  }
}

TEST(AdaptedHead, EqualsDenseLogitsInChunksOfAnySize) {
  HeadCase c(9, 5, 7, at::kDouble, at::kDouble);
  for (const bool skips : {false, true}) {
    if (skips) c.labels.slice(0, 2, 9, 3).fill_(-100);
    for (const int64_t chunk : {1, 2, 4, 100, 0}) {
      for (const double cap : {0.0, 1.5}) {
        for (const bool is_composed : {false, true}) {
          const ComposedOperations composed(is_composed);
          expect_same_loss(
              [&] { return linear_cross_entropy_sum(c.hidden, c.layer, c.labels, {}, chunk, cap) * 0.3; },
              [&] { return cross_entropy_sum(capped(c.dense_logits(c.hidden), cap), c.labels) * 0.3; },
              c.inputs(), 1e-12);
        }
      }
    }
  }
}

// Sizes whose products are packed, so that the update is added within them where they do that.
TEST(AdaptedHead, EqualsDenseLogitsInFloatAndBfloat16) {
  for (const auto& [dtype, tolerance] : {std::pair{at::kFloat, 5e-6}, {at::kBFloat16, 3e-2}}) {
    HeadCase c(300, 64, 500, dtype, at::kFloat);
    c.labels.slice(0, 20, 60).fill_(-100);
    for (const int64_t chunk : {64, 0}) {
      expect_same_loss([&] { return linear_cross_entropy_sum(c.hidden, c.layer, c.labels, {}, chunk, 20.0); },
                       [&] { return cross_entropy_sum(capped(c.dense_logits(c.hidden), 20.0), c.labels); },
                       c.inputs(), tolerance);
    }
  }
}

TEST(AdaptedHead, WhatIsFrozenBelowGetsNothing) {
  HeadCase c(6, 5, 7, at::kDouble, at::kDouble);
  c.hidden.requires_grad_(false);
  c.down2.requires_grad_(false);
  expect_same_loss([&] { return linear_cross_entropy_sum(c.hidden, c.layer, c.labels, {}, 4); },
                   [&] { return cross_entropy_sum(c.dense_logits(c.hidden), c.labels); },
                   {c.down1, c.up1, c.up2}, 1e-12);
  EXPECT_FALSE(c.hidden.grad().defined());
  EXPECT_FALSE(c.down2.grad().defined());
  const c10::NoGradGuard no_grad;
  const at::Tensor loss = linear_cross_entropy_sum(c.hidden, c.layer, c.labels, {}, 4);
  EXPECT_FALSE(loss.requires_grad());
  EXPECT_NEAR(loss.item<double>(), cross_entropy_sum(c.dense_logits(c.hidden), c.labels).item<double>(),
              1e-12);
}

TEST(AdaptedHead, AWeightThatIsTrainedToo) {
  HeadCase c(6, 5, 7, at::kDouble, at::kDouble);
  c.layer.weight->values().requires_grad_(true);
  c.layer.bias.requires_grad_(true);
  std::vector<at::Tensor> inputs = c.inputs();
  inputs.push_back(c.layer.weight->values());
  inputs.push_back(c.layer.bias);
  expect_same_loss([&] { return linear_cross_entropy_sum(c.hidden, c.layer, c.labels, {}, 2); },
                   [&] { return cross_entropy_sum(c.dense_logits(c.hidden), c.labels); }, inputs, 1e-12);
}

// Every kind of part that an update can have; the last needs its own output in its backward pass.
TEST(AdaptedHead, EveryKindOfUpdate) {
  HeadCase c(9, 5, 7, at::kDouble, at::kDouble);
  const at::Tensor core = drawn_leaf({2, 2}, "core"), scale = drawn_leaf({7}, "scale"),
                   shift = drawn_leaf({7, 5}, "shift");
  c.update->computed_low_rank = [&] {
    return std::vector<LowRankTerm>{{at::mm(core, c.down2), c.up2, 0.5, 0.0, 3}};
  };
  c.update->affine = [&](const Linear& layer, const ForwardContext&) {
    return AffineMap{layer.weight->values() + shift, layer.bias};
  };
  c.update->transform_output = [&](const Linear&, const at::Tensor&, const at::Tensor& y,
                                   const ForwardContext&) { return (y * scale).tanh(); };
  std::vector<at::Tensor> inputs = c.inputs();
  inputs.insert(inputs.end(), {core, scale, shift});
  const auto expected = [&] {
    const at::Tensor more = shift + at::mm(c.up2, at::mm(core, c.down2)) * 0.5;
    const at::Tensor y = c.dense_logits(c.hidden) + at::linear(c.hidden, more);
    return cross_entropy_sum((y * scale).tanh(), c.labels);
  };
  for (const int64_t chunk : {2, 100})
    expect_same_loss([&] { return linear_cross_entropy_sum(c.hidden, c.layer, c.labels, {}, chunk); },
                     expected, inputs, 1e-12);
}

TEST(AdaptedHead, NoLabelsGiveZerosWithAGraph) {
  HeadCase c(3, 5, 7, at::kDouble, at::kDouble);
  c.labels.fill_(-100);
  const at::Tensor loss = linear_cross_entropy_sum(c.hidden, c.layer, c.labels, {});
  EXPECT_EQ(loss.item<double>(), 0.0);
  loss.backward();
  for (const at::Tensor& gradient : take_gradients(c.inputs()))
    EXPECT_EQ(gradient.abs().max().item<double>(), 0.0);
  const at::Tensor none = c.hidden.detach().slice(0, 0, 0);
  EXPECT_EQ(linear_cross_entropy_sum(none, c.layer, c.labels.slice(0, 0, 0), {}).item<double>(), 0.0);
}

TEST(AdaptedHead, InputsAreObservedOnceAndWhole) {
  HeadCase c(9, 5, 7, at::kDouble, at::kDouble);
  c.labels[4] = -100;
  std::vector<at::Tensor> seen;
  c.update->observe_input = [&](const at::Tensor& x) { seen.push_back(x.detach().clone()); };
  ForwardContext context;
  linear_cross_entropy_sum(c.hidden, c.layer, c.labels, context, 2);
  EXPECT_TRUE(seen.empty());
  context.training = true;
  linear_cross_entropy_sum(c.hidden, c.layer, c.labels, context, 2);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(relative_difference(seen[0], at::cat({c.hidden.slice(0, 0, 4), c.hidden.slice(0, 5)})), 0.0);
}

// Noise is that of the weight, which all chunks multiply.
TEST(AdaptedHead, ChunksShareTheNoiseOfTheWeight) {
  for (const bool per_micro_batch : {false, true}) {
    HeadCase c(9, 5, 7, at::kDouble, at::kDouble);
    auto noise = std::make_shared<NoiseSource>();
    noise->deviations = at::full({7}, 0.5, at::kFloat);
    noise->stream = 4;
    noise->per_micro_batch = per_micro_batch;
    ForwardContext context;
    context.training = true;
    const auto loss = [&](int64_t chunk) {
      return linear_cross_entropy_sum(c.hidden, c.layer, c.labels, context, chunk);
    };
    const double plain = loss(100).item<double>();
    c.update->noise = noise;
    EXPECT_GT(std::abs(loss(100).item<double>() - plain), 1e-3);
    expect_same_loss([&] { return loss(2); }, [&] { return loss(100); }, c.inputs(), 1e-12);
  }
}

// The update's outputs of a layer of zeros, by which every element of the input's mask can be told: input j
// goes to class j.
TEST(AdaptedHead, DropoutDrawsEveryElementAnewAndTheSameAgain) {
  constexpr int64_t kRows = 512, kWidth = 64;
  constexpr double kRate = 0.25;
  Linear layer("lm_head", at::zeros({kWidth, kWidth}, at::kDouble), at::Tensor());
  at::Tensor down = at::zeros({kWidth, kWidth}, at::kDouble);
  down.diagonal().fill_(1.0);
  const at::Tensor up = down.clone();
  std::vector<at::Tensor> outputs;
  auto update = std::make_shared<SiteUpdate>();
  update->low_rank = {{down, up, 1.0, kRate, 9}};
  update->transform_output = [&](const Linear&, const at::Tensor&, const at::Tensor& y,
                                 const ForwardContext&) {
    outputs.push_back(y.detach().clone());
    return y;
  };
  layer.update = update;
  ForwardContext context;
  context.training = true;
  context.seed = 11;
  const at::Tensor hidden = at::ones({kRows, kWidth}, at::kDouble);
  const at::Tensor labels = at::zeros({kRows}, at::kLong);
  const auto masks = [&](int64_t chunk) {
    outputs.clear();
    linear_cross_entropy_sum(hidden, layer, labels, context, chunk);
    return at::cat(outputs).ne(0.0).to(at::kDouble);
  };
  const at::Tensor drawn = masks(64);
  EXPECT_EQ(outputs.size(), 8u);
  EXPECT_TRUE(drawn.equal(masks(64)));
  const double kept = 1.0 - kRate, spread = std::sqrt(kept * kRate);
  EXPECT_NEAR(drawn.mean().item<double>(), kept, 5 * spread / std::sqrt(kRows * kWidth));
  // Two chunks agree in an element as independent draws do.
  const double agree = kept * kept + kRate * kRate;
  const double bound = 5 * std::sqrt(agree * (1 - agree) / (64 * kWidth));
  for (int64_t a = 0; a < 8; ++a) {
    for (int64_t b = 0; b < a; ++b) {
      const at::Tensor first = drawn.slice(0, 64 * a, 64 * a + 64),
                       second = drawn.slice(0, 64 * b, 64 * b + 64);
      EXPECT_NEAR(first.eq(second).to(at::kDouble).mean().item<double>(), agree, bound) << a << " " << b;
    }
  }
  context.training = false;
  EXPECT_EQ(masks(64).min().item<double>(), 1.0);
}

TEST(AdaptedHead, GradientsUnderDropoutAreThoseOfFiniteDifferences) {
  HeadCase c(9, 5, 7, at::kDouble, at::kDouble);
  c.update->low_rank[0].dropout = 0.4;
  c.update->low_rank[1].dropout = 0.2;
  ForwardContext context;
  context.training = true;
  context.seed = 3;
  const auto loss = [&] { return linear_cross_entropy_sum(c.hidden, c.layer, c.labels, context, 2); };
  loss().backward();
  const std::vector<at::Tensor> inputs = c.inputs(), gradients = take_gradients(inputs);
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    at::Tensor input = inputs[i];
    const at::Tensor direction = normals(input.sizes(), "direction") * 1e-6, kept = input.clone();
    input.add_(direction);
    const double above = loss().item<double>();
    input.copy_(kept).sub_(direction);
    const double below = loss().item<double>();
    input.copy_(kept);
    const double predicted = 2 * (gradients[i] * direction).sum().item<double>();
    EXPECT_NEAR(above - below, predicted, 1e-6 * std::abs(predicted) + 1e-12) << "input " << i;
  }
}

}  // namespace
}  // namespace msplora
