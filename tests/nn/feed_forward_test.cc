#include "msplora/nn/feed_forward.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <gtest/gtest.h>

#include <memory>

#include "msplora/nn/functional.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;
using testing::relative_difference;

constexpr int64_t kHidden = 64, kInner = 96;

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
  at::Tensor up_weight = up.weight.to(at::kDouble);
  if (adapted) {
    auto update = std::make_shared<SiteUpdate>();
    update->low_rank = {{normals({3, kHidden}, "A", at::kFloat), normals({kInner, 3}, "B", at::kFloat), 0.5}};
    const LowRankTerm& term = update->low_rank[0];
    up_weight = up_weight + 0.5 * term.up.to(at::kDouble).mm(term.down.to(at::kDouble));
    up.update = update;
  }
  const auto wide = [](const at::Tensor& bias) { return bias.defined() ? bias.to(at::kDouble) : bias; };
  const at::Tensor inner = at::gelu(at::linear(exact, up_weight, wide(up.bias)));
  const at::Tensor expected = at::linear(inner, down.weight.to(at::kDouble), wide(down.bias));
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
    expect_exact(rows, at::kBFloat16, true, false, 2e-2);
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

TEST(FeedForward, AnAdaptedLayerIsNotSkipped) {
  expect_exact(600, at::kFloat, true, true, 2e-6);
}

}  // namespace
}  // namespace msplora
