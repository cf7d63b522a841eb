#include "msplora/nn/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>
#include <gtest/gtest.h>

#include <vector>

#include "msplora/core/error.h"
#include "msplora/nn/composed.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;
using testing::relative_difference;

const AttentionShape kShape{2, 1, 4};

AttentionInput input_of(int64_t queries, int64_t keys) {
  return AttentionInput::apart(normals({queries, 8}, "q"), normals({keys, 4}, "k"), normals({keys, 4}, "v"));
}

TEST(Attention, SegmentsSayRowsAndPlaces) {
  const auto segments = last_token_segments({0, 3, 3, 7});
  ASSERT_EQ(segments.size(), 3u);
  EXPECT_EQ(segments[2].q_begin, 2);
  EXPECT_EQ(segments[2].q_place, 3);
  EXPECT_EQ(segments[2].k_begin, 3);
  EXPECT_EQ(segments[1].k_count, 0);
  EXPECT_EQ(first_token_segments({0, 3})[0].q_place, 0);
  EXPECT_EQ(packed_segments({0, 3, 7})[1].q_count, 4);
}

// One query of one head, written out: cap(scale q k + bias), softmax, values.
TEST(Attention, IsTheFormula) {
  const AttentionShape shape{1, 1, 4, -1, -1, 0.3, 1.5};
  const at::Tensor q = normals({1, 4}, "q"), k = normals({5, 4}, "k"), v = normals({5, 4}, "v"),
                   key = normals({2, 4}, "key"), query = normals({2, 4}, "query"),
                   bias = normals({2, 1}, "bias");
  // The query stands at place 3: distances 3 to -1; those above 0 are bucket 1.
  const at::Tensor far = at::cat({key.narrow(0, 1, 1).expand({3, 4}), key.narrow(0, 0, 1).expand({2, 4})}, 0);
  const at::Tensor far_query =
      at::cat({query.narrow(0, 1, 1).expand({3, 4}), query.narrow(0, 0, 1).expand({2, 4})}, 0);
  const at::Tensor far_bias =
      at::cat({bias.narrow(0, 1, 1).expand({3, 1}), bias.narrow(0, 0, 1).expand({2, 1})}, 0);
  const at::Tensor scores =
      0.3 * ((q * k).sum(1) + (q * far).sum(1) + (k * far_query).sum(1)) + far_bias.select(1, 0);
  const at::Tensor expected = (at::softmax(1.5 * at::tanh(scores / 1.5), 0).unsqueeze(1) * v).sum(0, true);
  for (const bool is_composed : {false, true}) {
    const ComposedOperations form(is_composed);
    const at::Tensor got = attention(AttentionInput::apart(q, k, v),
                                     {{{0, 1, 0, 5, 3, 0}}, shape, {}, {{0, 0, 1}, key, query, bias}});
    EXPECT_LT(relative_difference(got, expected), 1e-12);
  }
}

TEST(Attention, RowsOfNoSegmentAreZero) {
  for (const bool is_composed : {false, true}) {
    const ComposedOperations form(is_composed);
    AttentionInput input = input_of(6, 9);
    for (at::Tensor& array : input.arrays) array.requires_grad_(true);
    const at::Tensor o = attention(input, {{{1, 2, 3, 4, 0, 0}}, kShape, {}, {}});
    EXPECT_EQ(o[0].abs().max().item<double>(), 0.0);
    EXPECT_EQ(o.narrow(0, 3, 3).abs().max().item<double>(), 0.0);
    EXPECT_GT(o[2].abs().max().item<double>(), 0.0);
    o.sum().backward();
    EXPECT_EQ(input.arrays[0].grad()[0].abs().max().item<double>(), 0.0);
    EXPECT_EQ(input.arrays[2].grad()[8].abs().max().item<double>(), 0.0);
    EXPECT_GT(input.arrays[2].grad()[4].abs().max().item<double>(), 0.0);
  }
}

TEST(Attention, WhatDoesNotFitIsRefused) {
  const AttentionInput input = input_of(6, 9);
  const auto attend = [&](const AttentionInput& in, const std::vector<AttentionSegment>& segments,
                          const RelativeAttention& relative = {}) {
    return attention(in, {segments, kShape, {}, relative});
  };
  EXPECT_NO_THROW(attend(input, {{0, 6, 0, 9, 0, 0}}));
  EXPECT_THROW(attend(input, {{0, 7, 0, 9, 0, 0}}), Error);  // a query too many
  EXPECT_THROW(attend(input, {{0, 6, 1, 9, 0, 0}}), Error);  // a key too many
  EXPECT_THROW(attend(input, {{-1, 2, 0, 9, 0, 0}}), Error);
  EXPECT_THROW(attend(input, {{0, 3, 0, 4, 0, 0}, {2, 3, 4, 5, 0, 0}}), Error);  // both have query 2
  const std::vector<AttentionSegment> shared = {{0, 3, 0, 6, 0, 0}, {3, 3, 2, 5, 0, 0}};
  EXPECT_NO_THROW(attend(input, shared));
  AttentionInput trained = input;
  trained.arrays[1] = trained.arrays[1].clone().requires_grad_(true);
  EXPECT_THROW(attend(trained, shared), Error);
  AttentionInput narrow = input;
  narrow.v.column = 1;
  EXPECT_THROW(attend(narrow, {{0, 6, 0, 9, 0, 0}}), Error);
  const at::Tensor key = normals({3, 8}, "key");
  EXPECT_NO_THROW(attend(input, {{0, 6, 0, 9, 0, 0}}, {{0, 1, 2}, key, {}, {}}));
  EXPECT_THROW(attend(input, {{0, 6, 0, 9, 0, 0}}, {{0, 1, 3}, key, {}, {}}), Error);  // no bucket 3
  EXPECT_THROW(attend(input, {{0, 6, 0, 9, 0, 0}}, {{0, 1}, key, {}, {}}), Error);     // one side is longer
  EXPECT_THROW(attend(input, {{0, 6, 0, 9, 0, 0}}, {{0, 1, 2}, {}, {}, key}), Error);  // 8 biases of 2 heads
}

}  // namespace
}  // namespace msplora
