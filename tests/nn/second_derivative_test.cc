// The kernels' functions have first derivatives alone and say so; compositions of libtorch's can be
// differentiated again.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tanh.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/nn/attention.h"
#include "msplora/nn/composed.h"
#include "msplora/nn/decoder_functional.h"
#include "msplora/nn/feed_forward.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/joint_linear.h"
#include "msplora/nn/linear_cross_entropy.h"
#include "msplora/nn/recompute.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;
using testing::relative_difference;

constexpr int64_t kTokens = 70, kFeatures = 64, kWide = 96;

Linear frozen_layer(int64_t out, int64_t in) {
  return Linear("layer", normals({out, in}, "weight", at::kFloat), normals({out}, "bias", at::kFloat));
}
Linear adapted_layer(int64_t out, int64_t in) {
  Linear layer = frozen_layer(out, in);
  auto update = std::make_shared<SiteUpdate>();
  update->low_rank = {{normals({3, in}, "down", at::kFloat), normals({out, 3}, "up", at::kFloat)}};
  layer.update = update;
  return layer;
}

struct OfOneTensor {
  std::string name;
  std::function<at::Tensor(const at::Tensor& x)> run;
};

std::vector<OfOneTensor> norms_and_activations() {
  const at::Tensor gamma = normals({kFeatures}, "gamma", at::kFloat);
  const kernels::Activation silu = kernels::Activation::kSilu;
  return {
      {"dropout",
       [](const at::Tensor& x) {
         return dropout(x, {7, 0.3});
       }},
      {"residual_layer_norm",
       [=](const at::Tensor& x) { return residual_layer_norm(x, x, gamma, gamma, 1e-5, {}); }},
      {"residual_rms_norm",
       [=](const at::Tensor& x) { return residual_rms_norm(x, {}, gamma, 1e-5).normed; }},
      {"activation", [=](const at::Tensor& x) { return activation(x, silu); }},
      {"gated_activation", [=](const at::Tensor& x) { return gated_activation(x, silu); }},
      {"rotary_",
       [](const at::Tensor& x) {
         const RotaryTable table = make_rotary_table(kTokens, rotary_frequencies(16, 1e4), at::kFloat);
         return rotary_(x * 1.0, at::arange(kTokens, at::kInt), 4, 16, table);
       }},
      {"attention",
       [](const at::Tensor& x) {
         return attention(AttentionInput::apart(x, x * 1.0, x * 1.0),
                          {packed_segments({0, 30, kTokens}), {4, 4, 16}, {}, {}});
       }},
  };
}

std::vector<OfOneTensor> products() {
  const kernels::Activation gelu = kernels::Activation::kGelu;
  const at::Tensor labels = at::arange(kTokens, at::kLong);
  return {
      {"adapted_linear", [](const at::Tensor& x) { return adapted_layer(kWide, kFeatures).forward(x, {}); }},
      {"a frozen layer", [](const at::Tensor& x) { return frozen_layer(kWide, kFeatures).forward(x, {}); }},
      {"joint_linear",
       [](const at::Tensor& x) {
         const Linear one = adapted_layer(kWide, kFeatures), other = frozen_layer(kWide, kFeatures);
         const auto both = JointLinear().forward(x, {&one, &other}, {});
         return both ? both->y : one.forward(x, {});
       }},
      {"feed_forward",
       [=](const at::Tensor& x) {
         return feed_forward(x, frozen_layer(kWide, kFeatures), frozen_layer(kFeatures, kWide), gelu, {}).y;
       }},
      {"gated_feed_forward",
       [=](const at::Tensor& x) {
         const Linear gate = frozen_layer(kWide, kFeatures), up = frozen_layer(kWide, kFeatures);
         return gated_feed_forward(x, JointLinear(), {&gate, &up}, frozen_layer(kFeatures, kWide), gelu, {})
             .y;
       }},
      {"linear_cross_entropy_sum",
       [=](const at::Tensor& x) {
         return linear_cross_entropy_sum(x, frozen_layer(kWide, kFeatures), labels, {});
       }},
      {"linear_cross_entropy_sum with an update",
       [=](const at::Tensor& x) {
         return linear_cross_entropy_sum(x, adapted_layer(kWide, kFeatures), labels, {});
       }},
      {"recompute_in_backward",
       [](const at::Tensor& x) {
         return recompute_in_backward(x, [](const at::Tensor& t) { return t * t; });
       }},
  };
}

at::Tensor gradient_with_graph(const OfOneTensor& function, const at::Tensor& x) {
  return torch::autograd::grad({function.run(x).square().sum()}, {x}, {}, /*retain_graph=*/true,
                               /*create_graph=*/true)[0];
}

TEST(SecondDerivatives, AreRefusedByEveryFunctionOfTheKernels) {
  std::vector<OfOneTensor> all = norms_and_activations();
  for (OfOneTensor& product : products()) all.push_back(std::move(product));
  for (const OfOneTensor& function : all) {
    SCOPED_TRACE(function.name);
    const at::Tensor x = normals({kTokens, kFeatures}, "x", at::kFloat).requires_grad_(true);
    EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { gradient_with_graph(function, x); }),
                ::testing::HasSubstr("has first derivatives alone"));
    function.run(x).square().sum().backward();
    EXPECT_TRUE(x.grad().defined());
  }
}

// d/dx of (dy/dx)² beside differences of it.
TEST(SecondDerivatives, OfCompositionsAreThere) {
  const ComposedOperations composed(true);
  for (const OfOneTensor& function : norms_and_activations()) {
    SCOPED_TRACE(function.name);
    const at::Tensor x = normals({kTokens, kFeatures}, "x").requires_grad_(true),
                     direction = normals({kTokens, kFeatures}, "direction");
    const auto squared = [&](const at::Tensor& at_x) {
      return gradient_with_graph(function, at_x).square().sum();
    };
    squared(x).backward();
    const auto beside = [&](double step) {
      return squared((x.detach() + step * direction).requires_grad_(true)).detach();
    };
    const at::Tensor expected = (beside(1e-5) - beside(-1e-5)) / 2e-5;
    EXPECT_LT(relative_difference((x.grad() * direction).sum(), expected), 1e-5);
  }
}

}  // namespace
}  // namespace msplora
