#include "msplora/nn/feed_forward.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/silu.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "msplora/nn/functional.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;
using testing::relative_difference;

constexpr int64_t kHidden = 64, kInner = 96;

// libtorch's own products are less exact than packed ones; they serve where oneDNN has none of this type.
double bfloat16_bound() {
  return packs_weights(at::kBFloat16, kInner, kHidden) ? 2e-2 : 3e-2;
}

/// Value and gradient of the input, beside those of libtorch in float64.
void expect_exact(int64_t rows, at::ScalarType dtype, bool has_bias, bool adapted, double tolerance) {
  const auto drawn = [&](at::IntArrayRef shape, const char* name) {
    return normals(shape, name, dtype) * 0.2;
  };
  const at::Tensor none;
  Linear up("up", drawn({kInner, kHidden}, "up"), has_bias ? normals({kInner}, "b", at::kFloat) : none);
  Linear down("down", drawn({kHidden, kInner}, "down"),
              has_bias ? normals({kHidden}, "c", at::kFloat) : none);
  at::Tensor x = normals({rows, kHidden}, "x", dtype).requires_grad_(true);
  const at::Tensor dy = normals({rows, kHidden}, "dy", dtype);
  at::Tensor exact = x.detach().to(at::kDouble).requires_grad_(true);
  at::Tensor up_weight = up.weight->values().to(at::kDouble);
  if (adapted) {
    auto update = std::make_shared<SiteUpdate>();
    update->low_rank = {{normals({3, kHidden}, "A", at::kFloat), normals({kInner, 3}, "B", at::kFloat), 0.5}};
    const LowRankTerm& term = update->low_rank[0];
    up_weight = up_weight + 0.5 * term.up.to(at::kDouble).mm(term.down.to(at::kDouble));
    up.update = update;
  }
  const auto wide = [](const at::Tensor& bias) { return bias.defined() ? bias.to(at::kDouble) : bias; };
  const at::Tensor inner = at::gelu(at::linear(exact, up_weight, wide(up.bias)));
  const at::Tensor expected = at::linear(inner, down.weight->values().to(at::kDouble), wide(down.bias));
  expected.backward(dy.to(at::kDouble));

  const at::Tensor y = feed_forward(x, up, down, kernels::Activation::kGelu, ForwardContext{}).y;
  y.backward(dy);
  EXPECT_LT(relative_difference(y.detach(), expected.detach()), tolerance) << rows << " rows";
  EXPECT_LT(relative_difference(x.grad(), exact.grad()), tolerance) << rows << " rows";
}

// Below the packed path, one padded rest, whole steps, blocks of the products and of the layer, and rests.
TEST(FeedForward, ValueAndGradientForEveryKindOfRowCount) {
  for (const int64_t rows : {1, 31, 33, 64, 65, 512, 513, 600, 1100, 2250}) {
    expect_exact(rows, at::kFloat, true, false, 2e-6);
    expect_exact(rows, at::kBFloat16, true, false, bfloat16_bound());
  }
  expect_exact(600, at::kFloat, false, false, 2e-6);
}

/// The gradient of x through norm(feed_forward(x) + x) in `dtype`. float64 takes the operations one by one.
at::Tensor gradient_in_block(at::ScalarType dtype) {
  const Linear up("up", normals({kInner, kHidden}, "up", dtype) * 0.2, normals({kInner}, "b", at::kFloat));
  const Linear down("down", normals({kHidden, kInner}, "down", dtype) * 0.2,
                    normals({kHidden}, "c", at::kFloat));
  const at::Tensor gamma = normals({kHidden}, "gamma", at::kFloat),
                   beta = normals({kHidden}, "beta", at::kFloat);
  const at::Tensor x = normals({1100, kHidden}, "x", dtype).requires_grad_(true);
  const WithInput inner = feed_forward(x, up, down, kernels::Activation::kGelu, ForwardContext{});
  residual_layer_norm(inner.y, inner.x, gamma, beta, 1e-5, {})
      .backward(normals({1100, kHidden}, "dy", dtype));
  return x.grad();
}

// Without dropout the norm hands one array on as the gradient of both, and it is added to in place.
TEST(FeedForward, OneGradientForOutputAndResidual) {
  EXPECT_LT(relative_difference(gradient_in_block(at::kFloat), gradient_in_block(at::kDouble)), 5e-6);
}

TEST(FeedForward, TheInputAloneMayBeUsed) {
  const Linear up("up", normals({kInner, kHidden}, "up", at::kFloat), {}),
      down("down", normals({kHidden, kInner}, "down", at::kFloat), {});
  const at::Tensor dx = normals({600, kHidden}, "dx", at::kFloat);
  const std::vector<std::function<WithInput(const at::Tensor&)>> parts = {
      [&](const at::Tensor& x) { return feed_forward(x, up, down, kernels::Activation::kGelu, {}); },
      [&](const at::Tensor& x) {
        return gated_feed_forward(x, JointLinear(), {&up, &up}, down, kernels::Activation::kSilu, {});
      },
      [&](const at::Tensor& x) {
        return gated(x, JointLinear(), {&up, &up}, kernels::Activation::kSilu, {});
      }};
  for (const auto& part : parts) {
    const at::Tensor x = normals({600, kHidden}, "x", at::kFloat).requires_grad_(true);
    part(x).x.backward(dx);
    EXPECT_TRUE(x.grad().equal(dx));
  }
}

// Processors without SIMD units that our products know take oneDNN's.
TEST(FeedForward, WithoutOurOwnProductsAsWell) {
  const testing::LowerIsa portable(kernels::Isa::kPortable);
  for (const int64_t rows : {33, 65, 600, 1100, 2250}) {
    expect_exact(rows, at::kFloat, true, false, 2e-6);
    expect_exact(rows, at::kBFloat16, true, false, bfloat16_bound());
  }
  EXPECT_LT(relative_difference(gradient_in_block(at::kFloat), gradient_in_block(at::kDouble)), 5e-6);
}

struct GatedLayers {
  int64_t inner = kInner;
  kernels::Activation kind = kernels::Activation::kSilu;
  std::string adapted{};  // a layer with an update; empty: none
  bool is_one = false;    // one layer gives gate and up
  bool has_bias = true;
};

at::Tensor exact_activation(const at::Tensor& x, kernels::Activation kind) {
  return kind == kernels::Activation::kSilu ? at::silu(x) : at::gelu(x, "tanh");
}

/// down(f(gate(x)) up(x)) + x and the gradients of x and of the factors, beside those of libtorch in float64.
void expect_exact_gated(int64_t rows, at::ScalarType dtype, const GatedLayers& layers, double tolerance) {
  SCOPED_TRACE(std::to_string(rows) + " rows, " + std::to_string(layers.inner) +
               " wide, adapted: " + layers.adapted + (layers.is_one ? ", one layer" : "") +
               (dtype == at::kFloat ? ", float" : ", bfloat16"));
  const auto layer = [&](int64_t in, int64_t out, const std::string& name) {
    Linear made(name, normals({out, in}, name.c_str(), dtype) * 0.2,
                layers.has_bias ? normals({out}, "bias", at::kFloat) * 0.2 : at::Tensor());
    if (layers.adapted != name) return made;
    auto update = std::make_shared<SiteUpdate>();
    update->low_rank = {{(normals({3, in}, "A", at::kFloat) * 0.2).requires_grad_(true),
                         (normals({out, 3}, "B", at::kFloat) * 0.2).requires_grad_(true), 0.5}};
    made.update = update;
    return made;
  };
  const int64_t wide = layers.inner;
  std::vector<Linear> gates;
  if (layers.is_one) {
    gates.push_back(layer(kHidden, 2 * wide, "gate_up"));
  } else {
    gates.push_back(layer(kHidden, wide, "gate"));
    gates.push_back(layer(kHidden, wide, "up"));
  }
  const Linear down = layer(wide, kHidden, "down");
  const at::Tensor x = normals({rows, kHidden}, "x", dtype).requires_grad_(true),
                   exact = x.detach().to(at::kDouble).requires_grad_(true),
                   dy = normals({rows, kHidden}, "dy", dtype);
  std::vector<at::Tensor> factors, exact_factors;
  const auto plain = [&](const Linear& linear, const at::Tensor& in) {
    at::Tensor weight = linear.weight->values().to(at::kDouble);
    if (linear.update) {
      const LowRankTerm& term = linear.update->low_rank[0];
      factors = {term.down, term.up};
      for (const at::Tensor& factor : factors)
        exact_factors.push_back(factor.detach().to(at::kDouble).requires_grad_(true));
      weight = weight + term.scaling * exact_factors[1].mm(exact_factors[0]);
    }
    return at::linear(in, weight, linear.bias.defined() ? linear.bias.to(at::kDouble) : at::Tensor());
  };
  at::Tensor gate = plain(gates[0], exact);
  const at::Tensor up = layers.is_one ? gate.narrow(1, wide, wide) : plain(gates[1], exact);
  gate = gate.narrow(1, 0, wide);
  const at::Tensor middle = exact_activation(gate, layers.kind) * up;
  const at::Tensor expected = plain(down, middle) + exact;
  expected.backward(dy.to(at::kDouble));
  const JointLinear joint;
  std::vector<const Linear*> pointers;
  for (const Linear& linear : gates) pointers.push_back(&linear);
  // As a model with dropout behind the gate asks for it.
  const at::Tensor gated_alone = gated(x, joint, pointers, layers.kind, ForwardContext{}).y;
  EXPECT_LT(relative_difference(gated_alone.detach(), middle.detach()), tolerance);
  const WithInput inner = gated_feed_forward(x, joint, pointers, down, layers.kind, ForwardContext{});
  const at::Tensor y = inner.y + inner.x;
  y.backward(dy);
  EXPECT_LT(relative_difference(y.detach(), expected.detach()), tolerance);
  EXPECT_LT(relative_difference(x.grad(), exact.grad()), tolerance);
  for (size_t i = 0; i < factors.size(); ++i)
    EXPECT_LT(relative_difference(factors[i].grad(), exact_factors[i].grad()), tolerance) << i;
}

std::vector<GatedLayers> kinds_of_gated_layers() {
  std::vector<GatedLayers> all;
  // Whole panels of every instruction set, and halves that end inside of one.
  for (const int64_t inner : {kInner, int64_t{100}}) {
    for (const char* adapted : {"", "gate", "up", "down"})
      all.push_back({.inner = inner, .adapted = adapted});
    for (const char* adapted : {"", "gate_up"})
      all.push_back({.inner = inner, .adapted = adapted, .is_one = true});
    all.push_back({.inner = inner, .kind = kernels::Activation::kGeluTanh});
    all.push_back({.inner = inner, .has_bias = false});
  }
  return all;
}

TEST(GatedFeedForward, ValueAndGradientForEveryKindOfRowCount) {
  for (const GatedLayers& layers : kinds_of_gated_layers()) {
    for (const int64_t rows : {1, 31, 65, 513, 1100}) {
      expect_exact_gated(rows, at::kFloat, layers, 5e-6);
      expect_exact_gated(rows, at::kBFloat16, layers, bfloat16_bound());
    }
  }
}

TEST(GatedFeedForward, WithoutOurOwnProductsAsWell) {
  const testing::LowerIsa portable(kernels::Isa::kPortable);
  for (const GatedLayers& layers : kinds_of_gated_layers()) {
    for (const int64_t rows : {65, 1100}) {
      expect_exact_gated(rows, at::kFloat, layers, 5e-6);
      expect_exact_gated(rows, at::kBFloat16, layers, bfloat16_bound());
    }
  }
}

TEST(FeedForward, AnAdaptedLayerIsNotSkipped) {
  expect_exact(600, at::kFloat, true, true, 2e-6);
}

}  // namespace
}  // namespace msplora
