#include "msplora/nn/joint_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "nn/drawn_tensors.h"
#include "nn/packed_linear.h"

namespace msplora {
namespace {

using testing::normals;
using testing::relative_difference;

constexpr int64_t kIn = 64;

/// Three layers of different widths; the first with two terms, the last with one.
struct Layers {
  explicit Layers(at::ScalarType dtype, double dropout = 0.0, bool with_updates = true) {
    for (const int64_t out : {96, 32, 64}) {
      const std::string name = "layer " + std::to_string(out);
      linears.emplace_back(name, normals({out, kIn}, name.c_str(), dtype) * 0.2,
                           normals({out}, "bias", at::kFloat));
    }
    if (!with_updates) return;
    const auto term = [&](int64_t out, int64_t rank, double scaling) {
      factors.push_back(normals({rank, kIn}, "down", at::kFloat).requires_grad_(true));
      factors.push_back(normals({out, rank}, "up", at::kFloat).requires_grad_(true));
      return LowRankTerm{factors[factors.size() - 2], factors.back(), scaling, dropout, factors.size()};
    };
    auto first = std::make_shared<SiteUpdate>(), last = std::make_shared<SiteUpdate>();
    first->low_rank = {term(96, 4, 0.5), term(96, 2, 1.0)};
    last->low_rank = {term(64, 3, 2.0)};
    linears[0].update = first;
    linears[2].update = last;
  }
  std::vector<const Linear*> all() const { return {&linears[0], &linears[1], &linears[2]}; }

  std::vector<Linear> linears;
  std::vector<at::Tensor> factors;
};

ForwardContext training() {
  ForwardContext context;
  context.training = true;
  context.seed = 3;
  return context;
}

/// Output and gradients beside those of the layers one by one, x being read by a residual connection as well.
void expect_as_separate(int64_t rows, at::ScalarType dtype, double dropout, double tolerance) {
  Layers joint_layers(dtype, dropout), layers(dtype, dropout);
  const at::Tensor x = normals({rows, kIn}, "x", dtype).requires_grad_(true);
  const at::Tensor other = x.detach().clone().requires_grad_(true);
  const at::Tensor dy = normals({rows, 192}, "dy", dtype),
                   d_residual = normals({rows, kIn}, "residual", dtype);

  const JointLinear joint;
  const auto outcome = joint.forward(x * 1.0, joint_layers.all(), training());
  ASSERT_EQ(outcome.has_value(), packs_weights(dtype, 192, kIn));
  if (!outcome) return;
  ((outcome->y * dy).sum() + (outcome->x * d_residual).sum()).backward();

  const at::Tensor input = other * 1.0;
  std::vector<at::Tensor> outputs;
  for (const Linear* layer : layers.all()) outputs.push_back(layer->forward(input, training()));
  const at::Tensor expected = at::cat(outputs, 1);
  ((expected * dy).sum() + (input * d_residual).sum()).backward();

  EXPECT_LT(relative_difference(outcome->y.detach(), expected.detach()), tolerance) << rows;
  EXPECT_LT(relative_difference(x.grad(), other.grad()), tolerance) << rows;
  for (size_t i = 0; i < layers.factors.size(); ++i) {
    EXPECT_LT(relative_difference(joint_layers.factors[i].grad(), layers.factors[i].grad()), tolerance)
        << rows << " rows, factor " << i;
  }
}

TEST(JointLinear, IsTheLayersOneByOne) {
  for (const int64_t rows : {32, 33, 64, 130, 512, 600, 1100, 2250}) {
    expect_as_separate(rows, at::kFloat, 0.0, 5e-6);
    expect_as_separate(rows, at::kFloat, 0.2, 5e-6);
    expect_as_separate(rows, at::kBFloat16, 0.2, 3e-2);
  }
}

// The share of the updates is in the sums of the product: half a unit in the last place of the dense formula,
// and a little for the terms that are added in float32.
TEST(JointLinear, TheGradientOfTheInputIsRoundedOnce) {
  const Layers layers(at::kBFloat16);
  const std::vector<const Linear*> all = layers.all();
  std::vector<const Weight*> weights;
  for (const Linear* layer : all) weights.push_back(layer->weight.get());
  const auto product = detail::PackedLinear::make(weights);
  if (!product || !product->adds_updates()) GTEST_SKIP() << "products add no updates here";

  const at::Tensor x = normals({70, kIn}, "x", at::kBFloat16).requires_grad_(true);
  const at::Tensor dy = normals({70, 192}, "dy", at::kBFloat16);
  const auto outcome = JointLinear().forward(x, all, training());
  ASSERT_TRUE(outcome.has_value());
  (outcome->y * dy).sum().backward();

  std::vector<at::Tensor> rows;
  for (const Linear* layer : all) {
    at::Tensor weight = layer->weight->values().to(at::kDouble);
    if (layer->update) {
      for (const LowRankTerm& term : layer->update->low_rank)
        weight = weight +
                 term.scaling * term.up.detach().to(at::kDouble).matmul(term.down.detach().to(at::kDouble));
    }
    rows.push_back(weight);
  }
  const at::Tensor expected = dy.to(at::kDouble).matmul(at::cat(rows));
  const at::Tensor bound = expected.abs() / 256 * 1.01 + expected.abs().max() * 2e-5;
  EXPECT_LE(((x.grad().to(at::kDouble) - expected).abs() - bound).max().item<double>(), 0.0);
}

TEST(JointLinear, AFirstLayerHasNoGradientOfItsInput) {
  const Layers layers(at::kFloat);
  const at::Tensor x = normals({64, kIn}, "x", at::kFloat);
  const auto outcome = JointLinear().forward(x, layers.all(), training());
  ASSERT_TRUE(outcome.has_value());
  EXPECT_FALSE(outcome->x.requires_grad());
  outcome->y.sum().backward();
  for (const at::Tensor& factor : layers.factors) EXPECT_TRUE(factor.grad().defined());
}

TEST(JointLinear, TheInputMayBeReadByNobodyElse) {
  const Layers layers(at::kFloat, 0.0, /*with_updates=*/false);
  const at::Tensor x = normals({64, kIn}, "x", at::kFloat).requires_grad_(true);
  const auto outcome = JointLinear().forward(x, layers.all(), training());
  ASSERT_TRUE(outcome.has_value());
  outcome->y.sum().backward();
  at::Tensor expected;
  for (const Linear* layer : layers.all()) {
    const at::Tensor part = layer->weight->values().sum(0);
    expected = expected.defined() ? expected + part : part;
  }
  EXPECT_LT(relative_difference(x.grad()[5], expected), 1e-5);
}

TEST(JointLinear, ChangedWeightsAreNoticed) {
  Layers layers(at::kFloat, 0.0, /*with_updates=*/false);
  const JointLinear joint;
  const at::Tensor x = normals({64, kIn}, "x", at::kFloat);
  const at::Tensor before = joint.forward(x, layers.all(), training())->y;
  layers.linears[1].weight->values().add_(1.0);
  const at::Tensor after = joint.forward(x, layers.all(), training())->y;
  EXPECT_TRUE(before.narrow(1, 0, 96).equal(after.narrow(1, 0, 96)));
  const at::Tensor expected = layers.linears[1].forward(x, training());
  EXPECT_LT(relative_difference(after.narrow(1, 96, 32), expected), 5e-6);
}

TEST(JointLinear, LeavesToTheLayersWhatIsTheirs) {
  const at::Tensor x = normals({64, kIn}, "x", at::kFloat);
  const auto is_joint = [&](const auto& change, const at::Tensor& input) {
    Layers layers(at::kFloat);
    change(layers);
    return JointLinear().forward(input, layers.all(), training()).has_value();
  };
  const auto update = [](Layers& layers) {
    auto copy = std::make_shared<SiteUpdate>(*layers.linears[0].update);
    layers.linears[0].update = copy;
    return copy;
  };
  EXPECT_TRUE(is_joint([](Layers&) {}, x));
  EXPECT_FALSE(is_joint([](Layers&) {}, x.to(at::kDouble)));
  EXPECT_FALSE(is_joint([](Layers& l) { l.linears[1].weight->values().requires_grad_(true); }, x));
  EXPECT_FALSE(is_joint([](Layers& l) { l.linears[2].bias.requires_grad_(true); }, x));
  EXPECT_FALSE(is_joint([](Layers& l) { l.linears[2].bias = at::Tensor(); }, x));
  EXPECT_FALSE(is_joint(
      [&](Layers& l) {
        update(l)->affine = [](const Linear& layer, const ForwardContext&) {
          return AffineMap{layer.weight->values(), layer.bias};
        };
      },
      x));
  EXPECT_FALSE(is_joint(
      [&](Layers& l) {
        update(l)->transform_output = [](const Linear&, const at::Tensor&, const at::Tensor& y,
                                         const ForwardContext&) { return y; };
      },
      x));
  // Noise without deviations is none.
  EXPECT_TRUE(is_joint([&](Layers& l) { update(l)->noise = std::make_shared<NoiseSource>(); }, x));
  NoiseSource noise;
  noise.deviations = at::full({96}, 0.1);
  EXPECT_FALSE(is_joint([&](Layers& l) { update(l)->noise = std::make_shared<NoiseSource>(noise); }, x));
}

}  // namespace
}  // namespace msplora
