#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "msplora/nn/functional.h"
#include "msplora/nn/linear.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;

/// A layer with one low-rank term and noise on its weight.
struct NoisyCase {
  at::Tensor x, down, up;
  std::shared_ptr<NoiseSource> noise = std::make_shared<NoiseSource>();
  Linear linear;
  ForwardContext context;

  explicit NoisyCase(at::ScalarType dtype)
      : x(normals({9, 6}, "x", dtype)),
        down(normals({3, 6}, "down", dtype)),
        up(normals({5, 3}, "up", dtype)),
        linear("layer", normals({5, 6}, "w", dtype), normals({5}, "b", dtype)) {
    noise->deviations = normals({5}, "deviations", at::kFloat).abs();
    noise->stream = 17;
    auto update = std::make_shared<SiteUpdate>();
    update->low_rank = {{down, up, 2.5}};
    update->noise = noise;
    linear.update = update;
    context.training = true;
    context.seed = 4;
    context.step = 11;
  }

  at::Tensor forward(uint64_t step, uint64_t micro_batch = 0) {
    context.step = step;
    context.micro_batch = micro_batch;
    return linear.forward(x, context);
  }
};

TEST(WeightNoise, ForwardAndBackwardAreThoseOfTheNoisyWeight) {
  NoisyCase c(at::kDouble);
  for (const at::Tensor& tensor : {c.x, c.down, c.up, c.linear.weight->values(), c.linear.bias})
    tensor.set_requires_grad(true);
  const at::Tensor before = c.linear.weight->values().detach().clone();
  // The noise itself, as the layer's output for unit inputs shows it.
  at::Tensor noisy;
  {
    c10::NoGradGuard no_grad;
    const at::Tensor unit = at::eye(6, at::kDouble);
    const at::Tensor low_rank = at::mm(c.up, c.down) * 2.5;
    noisy = (c.linear.forward(unit, c.context) - c.linear.bias).t() - low_rank;
    EXPECT_GT((noisy - before).abs().max().item<double>(), 0.1);
  }
  const at::Tensor weights = normals({9, 5}, "loss", at::kDouble);
  (c.linear.forward(c.x, c.context) * weights).sum().backward();

  const at::Tensor x = c.x.detach().clone().set_requires_grad(true),
                   down = c.down.detach().clone().set_requires_grad(true),
                   up = c.up.detach().clone().set_requires_grad(true),
                   weight = noisy.clone().set_requires_grad(true);
  const at::Tensor y = at::linear(x, weight + at::mm(up, down) * 2.5, c.linear.bias.detach());
  (y * weights).sum().backward();
  EXPECT_TRUE(at::allclose(c.x.grad(), x.grad(), 1e-10, 1e-12));
  EXPECT_TRUE(at::allclose(c.down.grad(), down.grad(), 1e-10, 1e-12));
  EXPECT_TRUE(at::allclose(c.up.grad(), up.grad(), 1e-10, 1e-12));
  EXPECT_TRUE(at::allclose(c.linear.weight->values().grad(), weight.grad(), 1e-10, 1e-12));
  EXPECT_TRUE(at::equal(c.linear.weight->values(), before)) << "the stored weight is never written";
}

TEST(WeightNoise, IsOnePerStepAndStreamAndOffInEvaluation) {
  NoisyCase c(at::kFloat);
  const at::Tensor now = c.forward(3);
  EXPECT_TRUE(at::equal(now, c.forward(3)));
  EXPECT_TRUE(at::equal(now, c.forward(3, 1)));
  EXPECT_FALSE(at::equal(now, c.forward(4)));
  c.noise->per_micro_batch = true;
  EXPECT_FALSE(at::equal(c.forward(3), c.forward(3, 1)));
  c.noise->per_micro_batch = false;
  c.noise->stream = 18;
  EXPECT_FALSE(at::equal(now, c.forward(3)));

  const at::Tensor evaluated = c.linear.forward(c.x, {});
  c.noise->deviations = at::Tensor();
  EXPECT_TRUE(at::equal(evaluated, c.forward(3)));
}

TEST(WeightNoise, RowsHaveTheirDeviations) {
  const int64_t width = 4096;
  Linear linear("layer", at::zeros({4, width}), {});
  auto noise = std::make_shared<NoiseSource>();
  noise->deviations = at::tensor(std::vector<float>{0.0f, 0.5f, 1.0f, 3.0f});
  auto update = std::make_shared<SiteUpdate>();
  update->noise = noise;
  linear.update = update;
  ForwardContext context;
  context.training = true;
  const at::Tensor weight = linear.forward(at::eye(width), context).t();
  const at::Tensor deviation = weight.square().mean(1).sqrt();
  for (int64_t i = 0; i < 4; ++i) {
    const float expected = noise->deviations[i].item<float>();
    EXPECT_NEAR(deviation[i].item<float>(), expected, 0.03 * expected);
  }
}

TEST(WeightNoise, Bfloat16WeightsAreRestoredBecauseTheyAreNeverChanged) {
  NoisyCase c(at::kFloat);
  const at::Tensor stored = c.linear.weight->values().to(at::kBFloat16);
  c.linear.weight->set(stored);
  const at::Tensor before = stored.clone();
  const at::Tensor exact = c.forward(2);
  c.down.set_requires_grad(true);
  const at::Tensor y = c.linear.forward(c.x.to(at::kBFloat16), c.context);
  y.sum().backward();
  EXPECT_TRUE(at::equal(stored, before));
  EXPECT_LT((y.to(at::kFloat) - exact).abs().max().item<double>(), 0.05 * exact.abs().max().item<double>());
}

}  // namespace
}  // namespace msplora
