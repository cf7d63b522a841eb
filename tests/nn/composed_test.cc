// What choosing a form means; op_cases_test.cc holds the two forms of each operation equal.
#include "msplora/nn/composed.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "msplora/core/ignored_label.h"
#include "msplora/nn/attention.h"
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

TEST(ComposedOperations, AttentionDropsOut) {
  const ComposedOperations form(true);
  const at::Tensor q = normals({20, 24}, "q");
  const AttentionShape shape{4, 4, 6};
  const auto output = [&](const kernels::DropoutMask& mask) {
    return attention(AttentionInput::apart(q, q, q), {packed_segments(kBounds), shape, mask, {}});
  };
  EXPECT_EQ(relative_difference(output(kMask), output(kMask)), 0.0);
  EXPECT_GT(relative_difference(output(kMask), output({})), 1e-2);
  EXPECT_GT(relative_difference(output(kMask), output({78, 0.3})), 1e-2);
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
    for (const double cap : {0.0, 2.0}) {
      expect_one_meaning("head and loss", {x, weight, bias}, [&](const auto& in) {
        return linear_cross_entropy_sum(in[0], in[1], in[2], labels, chunk, cap);
      });
    }
  }
}

}  // namespace
}  // namespace msplora
