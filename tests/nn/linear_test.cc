#include "msplora/nn/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

#include "msplora/nn/functional.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;

// Two levels with masks of their own, the second shared with nothing; alpha differs from the rank.
struct AdaptedCase {
  at::Tensor x, down_a, up_a, down_b, up_b;
  Linear linear;

  explicit AdaptedCase(at::ScalarType dtype, double dropout)
      : x(normals({7, 6}, "x", dtype)),
        down_a(normals({3, 6}, "da", dtype)),
        up_a(normals({5, 3}, "ua", dtype)),
        down_b(normals({2, 6}, "db", dtype)),
        up_b(normals({5, 2}, "ub", dtype)),
        linear("layer", normals({5, 6}, "w", dtype), normals({5}, "b", dtype)) {
    auto update = std::make_shared<SiteUpdate>();
    update->low_rank = {{down_a, up_a, 2.5, dropout, 1}, {down_b, up_b, 0.5, dropout, 2}};
    linear.update = update;
    for (const at::Tensor& tensor : inputs()) tensor.set_requires_grad(true);
  }
  std::vector<at::Tensor> inputs() const {
    return {x, down_a, up_a, down_b, up_b, linear.weight->values(), linear.bias};
  }
};

TEST(AdaptedLinear, EqualsTheDenseFormula) {
  AdaptedCase c(at::kFloat, 0.0);
  const at::Tensor dense =
      c.linear.weight->values() + 2.5 * at::mm(c.up_a, c.down_a) + 0.5 * at::mm(c.up_b, c.down_b);
  const at::Tensor expected = at::linear(c.x, dense, c.linear.bias);
  EXPECT_LT((c.linear.forward(c.x, {}) - expected).abs().max().item<double>(), 2e-5);
}

TEST(AdaptedLinear, GradientsMatchFiniteDifferencesWithDropout) {
  AdaptedCase c(at::kDouble, 0.3);
  ForwardContext context;
  context.training = true;
  context.seed = 4;
  const at::Tensor weights = normals({7, 5}, "loss", at::kDouble);
  const auto loss = [&] { return (c.linear.forward(c.x, context) * weights).sum(); };
  loss().backward();
  c10::NoGradGuard no_grad;
  for (const at::Tensor& input : c.inputs()) {
    at::Tensor flat = input.view({-1});
    const at::Tensor gradient = input.grad().reshape({-1});
    for (int64_t i = 0; i < flat.numel(); ++i) {
      const double kept = flat[i].item<double>(), step = 1e-6;
      flat[i] = kept + step;
      const double up = loss().item<double>();
      flat[i] = kept - step;
      const double down = loss().item<double>();
      flat[i] = kept;
      ASSERT_NEAR(gradient[i].item<double>(), (up - down) / (2 * step), 1e-7);
    }
  }
}

TEST(AdaptedLinear, LevelsDrawIndependentMasks) {
  ForwardContext context;
  context.training = true;
  const at::Tensor ones = at::ones({1, 4096});
  const at::Tensor a = dropout(ones, dropout_mask(context, 0.5, 1)),
                   b = dropout(ones, dropout_mask(context, 0.5, 2));
  const double both = a.ne(0).logical_and(b.ne(0)).to(at::kDouble).mean().item<double>();
  EXPECT_NEAR(both, 0.25, 0.05);
}

TEST(AdaptedLinear, NoGradientForAFrozenWeight) {
  AdaptedCase c(at::kFloat, 0.1);
  c.linear.weight->set(c.linear.weight->values().detach());
  c.linear.bias = c.linear.bias.detach();
  c.linear.forward(c.x, {}).sum().backward();
  EXPECT_FALSE(c.linear.weight->values().grad().defined());
  EXPECT_TRUE(c.down_a.grad().defined());
}

TEST(AdaptedLinear, Bfloat16ComputesWithFloat32Factors) {
  AdaptedCase exact(at::kFloat, 0.0), rounded(at::kFloat, 0.0);
  rounded.linear.weight->set(rounded.linear.weight->values().detach().to(at::kBFloat16));
  const at::Tensor y = rounded.linear.forward(rounded.x.detach().to(at::kBFloat16), {});
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  const at::Tensor expected = exact.linear.forward(exact.x, {});
  EXPECT_LT((y.to(at::kFloat) - expected).abs().max().item<double>(),
            0.05 * expected.abs().max().item<double>());
  y.sum().backward();
  EXPECT_EQ(rounded.down_a.grad().scalar_type(), at::kFloat);
}

TEST(CrossEntropy, SkipsIgnoredRowsAndMatchesTheDefinition) {
  const at::Tensor logits = normals({4, 3}, "logits", at::kFloat);
  const at::Tensor labels = at::tensor(std::vector<int64_t>{2, -100, 0, 1}, at::kLong);
  double expected = 0;
  for (const auto& [row, label] : {std::pair{0, 2}, std::pair{2, 0}, std::pair{3, 1}}) {
    const at::Tensor p = at::softmax(logits[row].to(at::kDouble), 0);
    expected -= std::log(p[label].item<double>());
  }
  EXPECT_NEAR(cross_entropy_sum(logits, labels).item<double>(), expected, 1e-5);
  EXPECT_THROW(cross_entropy_sum(logits, at::full({4}, 3, at::kLong)), std::runtime_error);
}

}  // namespace
}  // namespace msplora
