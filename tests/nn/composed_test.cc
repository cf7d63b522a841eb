// Both forms of every function of nn/: kernels, and libtorch's operations.
#include "msplora/nn/composed.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "msplora/core/ignored_label.h"
#include "msplora/nn/decoder_functional.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/linear_cross_entropy.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;
using testing::relative_difference;
using Function = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

struct Outcome {
  at::Tensor y;
  std::vector<at::Tensor> gradients;
};

Outcome outcome_of(const Function& function, const std::vector<at::Tensor>& inputs, bool composed) {
  const ComposedOperations form(composed);
  std::vector<at::Tensor> leaves, passed;
  for (const at::Tensor& input : inputs) {
    leaves.push_back(input.detach().clone().requires_grad_(true));
    passed.push_back(leaves.back() * 1.0);  // what works in place may not do so on a leaf
  }
  Outcome outcome;
  outcome.y = function(passed);
  outcome.y.backward(normals(outcome.y.sizes(), "dy", outcome.y.scalar_type()));
  for (const at::Tensor& leaf : leaves) outcome.gradients.push_back(leaf.grad());
  return outcome;
}

void expect_one_meaning(const std::string& what, const std::vector<at::Tensor>& inputs,
                        const Function& function, double tolerance = 1e-9) {
  SCOPED_TRACE(what);
  const Outcome kernels = outcome_of(function, inputs, false), composed = outcome_of(function, inputs, true);
  EXPECT_EQ(kernels.y.sizes(), composed.y.sizes());
  EXPECT_LT(relative_difference(kernels.y.detach(), composed.y.detach()), tolerance);
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_TRUE(kernels.gradients[i].defined() && composed.gradients[i].defined()) << "input " << i;
    EXPECT_LT(relative_difference(kernels.gradients[i], composed.gradients[i]), tolerance) << "input " << i;
  }
}

const kernels::DropoutMask kMask{77, 0.3};
const std::vector<int32_t> kBounds = {0, 5, 6, 17, 20};

TEST(ComposedOperations, LiveAsLongAsTheScope) {
  const at::Tensor x = normals({2}, "x");
  EXPECT_FALSE(uses_composed_operations(x));
  {
    const ComposedOperations outer(true);
    EXPECT_TRUE(uses_composed_operations(x));
    const ComposedOperations inner(false);
    EXPECT_FALSE(uses_composed_operations(x));
  }
  EXPECT_FALSE(uses_composed_operations(x));
}

TEST(ComposedOperations, NormsActivationsAndDropout) {
  const at::Tensor x = normals({7, 12}, "x"), residual = normals({7, 12}, "residual");
  const at::Tensor gamma = normals({12}, "gamma", at::kFloat), beta = normals({12}, "beta", at::kFloat);
  expect_one_meaning("dropout", {x}, [&](const auto& in) { return dropout(in[0], kMask); });
  expect_one_meaning(
      "layer norm", {x, gamma, beta},
      [&](const auto& in) { return residual_layer_norm(in[0], {}, in[1], in[2], 1e-5, {}); }, 1e-5);
  expect_one_meaning(
      "dropout, residual and layer norm", {x, residual},
      [&](const auto& in) { return residual_layer_norm(in[0], in[1], gamma, beta, 1e-5, kMask); }, 1e-5);
  expect_one_meaning(
      "rms norm", {x, gamma},
      [&](const auto& in) { return residual_rms_norm(in[0], {}, in[1], 1e-5).normed; }, 1e-5);
  expect_one_meaning(
      "residual rms norm", {x, residual},
      [&](const auto& in) {
        const NormedSum out = residual_rms_norm(in[0], in[1], gamma, 1e-5);
        return out.normed + 0.5 * out.sum;
      },
      1e-5);
  for (const char* name : {"gelu", "gelu_new", "relu", "silu", "tanh"}) {
    expect_one_meaning(
        name, {x}, [&](const auto& in) { return activation(in[0], activation_from_name(name)); }, 1e-6);
  }
  expect_one_meaning(
      "swiglu", {x, residual}, [](const auto& in) { return swiglu(in[0], in[1]); }, 1e-6);
  expect_one_meaning(
      "joint swiglu", {x}, [](const auto& in) { return swiglu(in[0]); }, 1e-6);
}

TEST(ComposedOperations, Attention) {
  for (const int64_t kv_heads : {4, 2, 1}) {
    for (const auto& [left, right] : {std::pair{-1, -1}, {-1, 0}, {0, 0}, {3, 0}, {2, 4}, {50, 1}}) {
      const AttentionShape shape{4, kv_heads, 6, left, right};
      const std::string what =
          std::to_string(kv_heads) + " heads, window " + std::to_string(left) + " " + std::to_string(right);
      const int64_t narrow = 6 * kv_heads;
      expect_one_meaning(
          what, {normals({20, 24}, "q"), normals({20, narrow}, "k"), normals({20, narrow}, "v")},
          [&](const auto& in) { return segment_attention(in[0], in[1], in[2], kBounds, shape, {}); }, 1e-5);
      expect_one_meaning(
          what + ", joint", {normals({20, 24 + 2 * narrow}, "qkv")},
          [&](const auto& in) { return segment_attention(in[0], kBounds, shape, {}); }, 1e-5);
      for (const kernels::Queries queries : {kernels::Queries::kFirst, kernels::Queries::kLast}) {
        const AttentionShape one{4, kv_heads, 6, left, right, queries};
        expect_one_meaning(
            what + ", one query of each segment", {normals({4, 24}, "q"), normals({20, 12 * kv_heads}, "kv")},
            [&](const auto& in) { return segment_attention(in[0], in[1], kBounds, one, {}); }, 1e-5);
      }
    }
  }
}

TEST(ComposedOperations, AttentionDropsOut) {
  const ComposedOperations form(true);
  const at::Tensor q = normals({20, 24}, "q");
  const AttentionShape shape{4, 4, 6};
  const auto output = [&](const kernels::DropoutMask& mask) {
    return segment_attention(q, q, q, kBounds, shape, mask);
  };
  EXPECT_EQ(relative_difference(output(kMask), output(kMask)), 0.0);
  EXPECT_GT(relative_difference(output(kMask), output({})), 1e-2);
  EXPECT_GT(relative_difference(output(kMask), output({78, 0.3})), 1e-2);
}

TEST(ComposedOperations, Rotary) {
  const RotaryTable table = make_rotary_table(11, rotary_frequencies(8, 100.0));
  const at::Tensor positions = segment_positions(kBounds);
  for (const auto pairs : {kernels::RotaryPairs::kHalves, kernels::RotaryPairs::kInterleaved}) {
    for (const int64_t head_dim : {8, 10}) {
      // Two heads are turned, what follows them is not.
      expect_one_meaning(
          "rotary", {normals({20, 2 * head_dim + 5}, "x")},
          [&](const auto& in) { return rotary_(in[0], positions, 2, head_dim, table, pairs); }, 1e-6);
    }
  }
}

TEST(ComposedOperations, AdaptedLinearAndTheLossOfAHead) {
  const at::Tensor x = normals({9, 16}, "x"), weight = normals({11, 16}, "w"), bias = normals({11}, "b");
  const std::vector<kernels::LowRankSlice> slices = {{0, 2, kMask}, {2, 3, {}}, {3, 5, {5, 0.5}}};
  expect_one_meaning(
      "adapted linear", {x, weight, bias, normals({5, 16}, "A"), normals({11, 5}, "B")},
      [&](const auto& in) { return adapted_linear(in[0], in[1], in[2], in[3], in[4], slices); });
  expect_one_meaning("no update", {x, weight},
                     [&](const auto& in) { return adapted_linear(in[0], in[1], {}, {}, {}, {}); });
  const at::Tensor labels = at::arange(9).remainder(11);
  labels[4] = kIgnoredLabel;
  for (const int64_t chunk : {0, 1, 4}) {
    expect_one_meaning("head and loss", {x, weight, bias}, [&](const auto& in) {
      return linear_cross_entropy_sum(in[0], in[1], in[2], labels, chunk);
    });
  }
}

}  // namespace
}  // namespace msplora
