#include "adapters/equivalent_gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "nn/drawn_tensors.h"

namespace msplora::detail {
namespace {

using testing::normals;

double frobenius(const at::Tensor& tensor) {
  return tensor.norm().item<double>();
}

const std::vector<GradientSplit> kSplits = {GradientSplit::kSylvester, GradientSplit::kSymmetric,
                                            GradientSplit::kZero};

/// Factors, a gradient of the weight and the gradients of the factors that it brings.
struct Case {
  explicit Case(int64_t out = 24, int64_t in = 17, int64_t r = 4, double scaling = 2.5)
      : s(scaling),
        factors{normals({r, in}, "A"), normals({out, r}, "B")},
        g(normals({out, in}, "G")),
        gradients{at::mm(factors.up.t(), g) * s, at::mm(g, factors.down.t()) * s} {}

  FactorMatrices step(GradientSplit split) const {
    return equivalent_gradients(factors, gradients, s, split, {0.0, 0.0});
  }
  at::Tensor effect(GradientSplit split) const { return weight_change(factors, step(split), s); }
  at::Tensor up_projector() const {
    const at::Tensor& b = factors.up;
    return at::mm(at::mm(b, at::linalg_inv(at::mm(b.t(), b))), b.t());
  }
  at::Tensor down_projector() const {
    const at::Tensor& a = factors.down;
    return at::mm(at::mm(a.t(), at::linalg_inv(at::mm(a, a.t()))), a);
  }

  double s;
  FactorMatrices factors;
  at::Tensor g;
  FactorMatrices gradients;
};

TEST(EquivalentGradient, IsTheProjectionOfTheGradientForEverySplit) {
  const Case c;
  const at::Tensor pb = c.up_projector(), pa = c.down_projector();
  const at::Tensor expected = at::mm(pb, c.g) + at::mm(c.g, pa) - at::mm(at::mm(pb, c.g), pa);
  for (const GradientSplit split : kSplits) {
    const at::Tensor effect = c.effect(split);
    EXPECT_LT(frobenius(effect - expected), 1e-10 * frobenius(expected));
    EXPECT_LT(frobenius(at::mm(c.factors.up.t(), effect - c.g)), 1e-9);    // normal equations
    EXPECT_LT(frobenius(at::mm(effect - c.g, c.factors.down.t())), 1e-9);  //
  }
  const at::Tensor residual =
      at::mm(at::mm(at::eye(24, at::kDouble) - pb, c.g), at::eye(17, at::kDouble) - pa);
  EXPECT_NEAR(frobenius(c.effect(GradientSplit::kZero) - c.g), frobenius(residual), 1e-9);
}

TEST(EquivalentGradient, IsNearerThanAnyMultipleOfLorasOwn) {
  const Case c;
  const at::Tensor own = weight_change(c.factors, c.gradients, c.s);
  const double factor = (own * c.g).sum().item<double>() / (own * own).sum().item<double>();
  EXPECT_LT(frobenius(c.effect(GradientSplit::kSylvester) - c.g), frobenius(own * factor - c.g) * 0.999);
  // A descent direction: <G, effect> = |effect|².
  const at::Tensor effect = c.effect(GradientSplit::kSymmetric);
  EXPECT_NEAR((c.g * effect).sum().item<double>(), (effect * effect).sum().item<double>(), 1e-8);
}

TEST(EquivalentGradient, DoesNotDependOnTheGaugeNorOnTheScale) {
  const Case c;
  const at::Tensor expected = c.effect(GradientSplit::kZero);
  const at::Tensor r = normals({4, 4}, "R") + 3.0 * at::eye(4, at::kDouble);
  Case turned;
  turned.factors = {at::mm(r, c.factors.down), at::mm(c.factors.up, at::linalg_inv(r))};
  turned.gradients = {at::mm(turned.factors.up.t(), c.g) * c.s, at::mm(c.g, turned.factors.down.t()) * c.s};
  const Case scaled(24, 17, 4, 0.125);
  for (const GradientSplit split : kSplits) {
    EXPECT_LT(frobenius(turned.effect(split) - expected), 1e-10 * frobenius(expected));
    EXPECT_LT(frobenius(scaled.effect(split) - expected), 1e-10 * frobenius(expected));
  }
}

TEST(EquivalentGradient, IsTheGradientItselfAtFullRank) {
  const Case c(9, 6, 6);
  for (const GradientSplit split : kSplits)
    EXPECT_LT(frobenius(c.effect(split) - c.g), 1e-9 * frobenius(c.g));
}

TEST(EquivalentGradient, SplitsDivideTheStepAsDefined) {
  const Case c;
  const at::Tensor p = at::mm(c.factors.up.t(), c.factors.up), q = at::mm(c.factors.down, c.factors.down.t());
  const FactorMatrices zero = c.step(GradientSplit::kZero), sylvester = c.step(GradientSplit::kSylvester);
  // X from the down factor: hA - hA(X = 0) = X A.
  const at::Tensor x = at::mm(at::mm(sylvester.down - zero.down, c.factors.down.t()), at::linalg_inv(q));
  const at::Tensor right =
      at::mm(at::mm(at::linalg_inv(p), c.gradients.down), c.factors.down.t()) / (-c.s * c.s);
  EXPECT_LT(frobenius(at::mm(p, x) + at::mm(x, q) - right), 1e-10 * frobenius(right));
  const auto distance = [&](GradientSplit split) {
    const FactorMatrices step = c.step(split);
    return std::pow(frobenius(step.down - c.gradients.down), 2) +
           std::pow(frobenius(step.up - c.gradients.up), 2);
  };
  EXPECT_LT(distance(GradientSplit::kSylvester), distance(GradientSplit::kZero));
  EXPECT_LT(distance(GradientSplit::kSylvester), distance(GradientSplit::kSymmetric));
  // Symmetric: both factors carry the same part of what they share, P_B effect P_A.
  const FactorMatrices symmetric = c.step(GradientSplit::kSymmetric);
  const at::Tensor from_down = at::mm(at::mm(c.factors.up, symmetric.down), c.down_projector());
  const at::Tensor from_up = at::mm(c.up_projector(), at::mm(symmetric.up, c.factors.down));
  EXPECT_LT(frobenius(from_down - from_up), 1e-10 * frobenius(from_down));
}

TEST(EquivalentGradient, IsTheFirstOrderChangeOfTheProduct) {
  const Case c;
  const FactorMatrices step = c.step(GradientSplit::kSylvester);
  const double lr = 1e-7;
  const at::Tensor moved = at::mm(c.factors.up - lr * step.up, c.factors.down - lr * step.down);
  const at::Tensor change = (moved - at::mm(c.factors.up, c.factors.down)) * (c.s / -lr);
  const at::Tensor effect = c.effect(GradientSplit::kSylvester);
  EXPECT_LT(frobenius(change - effect), 1e-5 * frobenius(effect));
}

TEST(EquivalentGradient, StartsAtAZeroUpFactor) {
  Case c;
  c.factors.up.zero_();
  c.gradients = {at::zeros({4, 17}, at::kDouble), at::mm(c.g, c.factors.down.t()) * c.s};
  for (const double damping : {0.0, 1e-8}) {
    for (const GradientSplit split : kSplits) {
      const FactorMatrices step = equivalent_gradients(c.factors, c.gradients, c.s, split, {damping, 0.0});
      EXPECT_EQ(frobenius(step.down), 0.0);
      const at::Tensor expected = at::mm(c.g, c.down_projector());
      EXPECT_LT(frobenius(weight_change(c.factors, step, c.s) - expected), 1e-6 * frobenius(expected));
    }
  }
}

TEST(EquivalentGradient, DampingBoundsTheStepOfASmallUpFactor) {
  Case c;
  c.factors.up.mul_(1e-9);
  c.gradients.down.mul_(1e-9);
  const FactorMatrices plain =
      equivalent_gradients(c.factors, c.gradients, c.s, GradientSplit::kZero, {0.0, 0.0});
  const FactorMatrices damped =
      equivalent_gradients(c.factors, c.gradients, c.s, GradientSplit::kZero, {1e-8, 0.0});
  EXPECT_GT(frobenius(plain.down), 1e6);
  EXPECT_LE(frobenius(damped.down), frobenius(c.gradients.down) / (c.s * c.s * 1e-8) * 1.0001);
  // Relative damping does not know the size of the factor.
  const FactorMatrices relative =
      equivalent_gradients(c.factors, c.gradients, c.s, GradientSplit::kZero, {1e-8, 1e-6});
  EXPECT_NEAR(frobenius(relative.down), frobenius(plain.down), 1e-4 * frobenius(plain.down));
}

}  // namespace
}  // namespace msplora::detail
