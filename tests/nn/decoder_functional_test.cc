#include "msplora/nn/decoder_functional.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/linear_cross_entropy.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;

at::Tensor trained(at::IntArrayRef shape, const std::string& name, at::ScalarType dtype = at::kDouble) {
  return normals(shape, name, dtype).requires_grad_(true);
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

// The same value and the same gradients in `inputs` as `expected`, which plain operators compute.
void expect_same(const std::function<at::Tensor()>& got, const std::function<at::Tensor()>& expected,
                 const std::vector<at::Tensor>& inputs, double tolerance) {
  std::vector<at::Tensor> gradients;
  const at::Tensor value = expected();
  value.backward();
  for (const at::Tensor& input : inputs) {
    gradients.push_back(input.grad().clone());
    input.mutable_grad().reset();
  }
  const at::Tensor ours = got();
  EXPECT_LT(difference(ours, value), tolerance);
  ours.backward();
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_TRUE(inputs[i].grad().defined()) << "input " << i;
    EXPECT_LT(difference(inputs[i].grad(), gradients[i]), tolerance) << "input " << i;
    inputs[i].mutable_grad().reset();
  }
}

TEST(ResidualRmsNorm, MatchesPlainOperators) {
  const at::Tensor x = trained({4, 6}, "x"), residual = trained({4, 6}, "r");
  const at::Tensor gamma = normals({6}, "gamma");
  const at::Tensor on_normed = normals({4, 6}, "a"), on_sum = normals({4, 6}, "b");
  const auto plain = [&](bool with_normed, bool with_sum) {
    const at::Tensor s = x + residual;
    const at::Tensor n = s / (s.square().mean(1, true) + 1e-5).sqrt() * gamma;
    return (with_normed ? (n * on_normed).sum() : s.sum() * 0) +
           (with_sum ? (s * on_sum).sum() : s.sum() * 0);
  };
  for (const auto& [with_normed, with_sum] : {std::pair{true, true}, {true, false}, {false, true}}) {
    const auto ours = [&, with_normed = with_normed, with_sum = with_sum] {
      const NormedSum out = residual_rms_norm(x, residual, gamma, 1e-5);
      if (with_normed && with_sum) return (out.normed * on_normed).sum() + (out.sum * on_sum).sum();
      return with_normed ? (out.normed * on_normed).sum() : (out.sum * on_sum).sum();
    };
    const auto expected = [&, with_normed = with_normed, with_sum = with_sum] {
      return plain(with_normed, with_sum);
    };
    expect_same(ours, expected, {x, residual}, 1e-10);
  }
}

TEST(ResidualRmsNorm, WithoutResidualTheSumIsTheInput) {
  const at::Tensor x = trained({3, 5}, "x"), gamma = trained({5}, "gamma");
  const at::Tensor weights = normals({3, 5}, "w");
  const auto ours = [&] {
    const NormedSum out = residual_rms_norm(x, {}, gamma, 1e-6);
    EXPECT_TRUE(out.sum.is_same(x));
    return (out.normed * weights).sum();
  };
  const auto expected = [&] {
    return (x / (x.square().mean(1, true) + 1e-6).sqrt() * gamma * weights).sum();
  };
  expect_same(ours, expected, {x, gamma}, 1e-12);
}

TEST(Rotary, MatchesTheFormulaOfHuggingFace) {
  const int64_t heads = 2, dim = 8;
  const at::Tensor x = trained({5, heads * dim}, "x", at::kFloat),
                   weights = normals({5, heads * dim}, "w", at::kFloat);
  const std::vector<int32_t> cu_seqlens = {0, 3, 5};
  const at::Tensor positions = segment_positions(cu_seqlens);
  EXPECT_EQ(std::vector<int32_t>(positions.data_ptr<int32_t>(), positions.data_ptr<int32_t>() + 5),
            (std::vector<int32_t>{0, 1, 2, 0, 1}));
  const RotaryTable table = make_rotary_table(4, rotary_frequencies(dim, 10000.0), at::kFloat);
  const auto expected = [&] {
    // rotate_half: (-second half, first half).
    const at::Tensor frequencies = (at::arange(0, dim, 2, at::kDouble) / dim * -std::log(10000.0)).exp();
    at::Tensor angles = positions.to(at::kDouble).unsqueeze(1) * frequencies;
    angles = at::cat({angles, angles}, 1).to(at::kFloat).unsqueeze(1);
    const at::Tensor h = x.view({5, heads, dim});
    const at::Tensor turned = at::cat({-h.slice(2, dim / 2), h.slice(2, 0, dim / 2)}, 2);
    return ((h * angles.cos() + turned * angles.sin()).reshape({5, heads * dim}) * weights).sum();
  };
  expect_same([&] { return (rotary_(x.clone(), positions, heads, dim, table) * weights).sum(); }, expected,
              {x}, 2e-6);
}

TEST(Rotary, TablesHaveThePrecisionOfTheRun) {
  const int64_t dim = 12, far = 5000;
  const std::vector<double> frequencies = rotary_frequencies(dim, 1e6);
  const RotaryTable exact = make_rotary_table(far + 1, frequencies, at::kDouble),
                    plain = make_rotary_table(far + 1, frequencies, at::kBFloat16);
  ASSERT_EQ(exact.cos.scalar_type(), at::kDouble);
  ASSERT_EQ(plain.cos.scalar_type(), at::kFloat);
  for (int64_t i = 0; i < dim / 2; ++i) {
    const double frequency = std::pow(1e6, -2.0 * static_cast<double>(i) / dim);
    EXPECT_NEAR(exact.cos[far][i].item<double>(), std::cos(far * frequency), 1e-11) << i;
    EXPECT_NEAR(exact.sin[far][i].item<double>(), std::sin(far * frequency), 1e-11) << i;
    // Hugging Face rounds the frequency and the angle to float32, whatever the model computes in.
    const float angle = static_cast<float>(far) * static_cast<float>(frequency);
    EXPECT_NEAR(plain.cos[far][i].item<double>(), std::cos(static_cast<double>(angle)), 1e-7) << i;
    EXPECT_NEAR(plain.sin[far][i].item<double>(), std::sin(static_cast<double>(angle)), 1e-7) << i;
  }
}

TEST(Rotary, BadInputIsRefused) {
  const RotaryTable table = make_rotary_table(4, rotary_frequencies(8, 10000.0), at::kFloat);
  const at::Tensor x = normals({2, 16}, "x", at::kFloat);
  EXPECT_THROW(rotary_(x, at::tensor({0, 4}, at::kInt), 2, 8, table), Error);
  EXPECT_THROW(rotary_(x, at::tensor({0, 1}, at::kInt), 4, 4, table), Error);
  EXPECT_THROW(rotary_frequencies(7, 10000.0), Error);
}

TEST(LinearCrossEntropy, EqualsHeadThenLoss) {
  const at::Tensor hidden = trained({9, 5}, "hidden"), weight = trained({7, 5}, "weight"),
                   bias = trained({7}, "bias");
  for (const std::vector<int64_t>& values :
       {std::vector<int64_t>{0, 6, 3, 3, 1, 2, 5, 4, 0}, {-100, 6, -100, 3, 1, -100, 5, 4, -100}}) {
    const at::Tensor labels = at::tensor(values, at::kLong);
    for (const int64_t chunk : {1, 2, 4, 100, 0}) {
      for (const double cap : {0.0, 1.5}) {
        const auto head = [&] {
          const at::Tensor logits = at::linear(hidden, weight, bias);
          return cap > 0 ? (logits / cap).tanh() * cap : logits;
        };
        expect_same([&] { return linear_cross_entropy_sum(hidden, weight, bias, labels, chunk, cap) * 0.3; },
                    [&] { return cross_entropy_sum(head(), labels) * 0.3; }, {hidden, weight, bias}, 1e-10);
      }
    }
  }
}

TEST(LinearCrossEntropy, FrozenHeadInBfloat16AndFloat) {
  const at::Tensor labels = at::tensor(std::vector<int64_t>{3, -100, 40, 7, 0}, at::kLong);
  const at::Tensor exact_hidden = trained({5, 16}, "hidden", at::kFloat),
                   weight = normals({50, 16}, "w", at::kFloat);
  linear_cross_entropy_sum(exact_hidden, weight, {}, labels).backward();
  EXPECT_FALSE(weight.grad().defined());
  EXPECT_EQ(exact_hidden.grad()[1].abs().max().item<double>(), 0.0);
  const at::Tensor hidden = exact_hidden.detach().to(at::kBFloat16).requires_grad_(true);
  const at::Tensor loss = linear_cross_entropy_sum(hidden, weight, {}, labels);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  loss.backward();
  EXPECT_EQ(hidden.grad().scalar_type(), at::kBFloat16);
  EXPECT_LT(difference(hidden.grad().to(at::kFloat), exact_hidden.grad()),
            0.03 * exact_hidden.grad().abs().max().item<double>());
}

// A frozen head takes a packed product, a few hundred rows at a time.
TEST(LinearCrossEntropy, PackedHeadEqualsHeadThenLoss) {
  at::Tensor labels = at::arange(300, at::kLong).remainder(500);
  labels.slice(0, 20, 60).fill_(-100);
  // libtorch's own products are less exact; they serve where oneDNN has none of this type.
  const double bfloat16_bound = packs_weights(at::kBFloat16, 500, 64) ? 2e-2 : 3e-2;
  for (const auto& [dtype, tolerance] : {std::pair{at::kFloat, 2e-6}, {at::kBFloat16, bfloat16_bound}}) {
    const Linear head("head", normals({500, 64}, "w", dtype) * 0.2, normals({500}, "b", at::kFloat));
    const at::Tensor hidden = normals({300, 64}, "hidden", dtype).requires_grad_(true);
    const at::Tensor exact = hidden.detach().to(at::kDouble).requires_grad_(true);
    const at::Tensor expected = cross_entropy_sum(
        at::linear(exact, head.weight->values().to(at::kDouble), head.bias.to(at::kDouble)), labels);
    expected.backward();
    const at::Tensor loss = linear_cross_entropy_sum(hidden, head, labels, {});
    loss.backward();
    EXPECT_NEAR(loss.item<double>(), expected.item<double>(), tolerance * expected.item<double>());
    EXPECT_LT(difference(hidden.grad().to(at::kDouble), exact.grad()),
              tolerance * exact.grad().abs().max().item<double>());
    EXPECT_EQ(hidden.grad().slice(0, 20, 60).abs().max().item<double>(), 0.0);
  }
}

TEST(LinearCrossEntropy, NothingCountedAndBadLabels) {
  const at::Tensor hidden = trained({2, 3}, "hidden"), weight = normals({4, 3}, "w");
  const at::Tensor loss =
      linear_cross_entropy_sum(hidden, weight, {}, at::tensor(std::vector<int64_t>{-100, -100}));
  EXPECT_EQ(loss.item<double>(), 0.0);
  loss.backward();
  EXPECT_EQ(hidden.grad().abs().max().item<double>(), 0.0);
  EXPECT_THROW(linear_cross_entropy_sum(hidden, weight, {}, at::tensor(std::vector<int64_t>{1, 4})), Error);
}

}  // namespace
}  // namespace msplora
