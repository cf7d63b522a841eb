#include "msplora/nn/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include <vector>

#include "golden_cases.h"
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

// DeBERTa-v2's, as transformers computes it.
TEST(GoldenAttention, RelativeTermsAreThoseOfDeberta) {
  const std::filesystem::path folder = golden_group("attention");
  if (folder.empty()) GTEST_SKIP() << "no cases of attention";
  const auto c = nlohmann::json::parse(std::ifstream(folder / "deberta-v2.json"));
  const int64_t tokens = c["tokens"], buckets = c["buckets"], heads = c["heads"], head_dim = c["head_dim"];
  const auto array = [&](const char* name, int64_t rows) {
    return at::tensor(c[name].get<std::vector<double>>(), at::kDouble).view({rows, heads * head_dim});
  };
  const AttentionShape shape{heads, heads, head_dim, -1, -1, c["scale"]};
  for (const bool is_composed : {false, true}) {
    const ComposedOperations form(is_composed);
    std::vector<at::Tensor> inputs = {array("q", tokens), array("k", tokens), array("v", tokens),
                                      array("key", buckets), array("query", buckets)};
    for (at::Tensor& input : inputs) input.requires_grad_(true);
    const at::Tensor o = attention(AttentionInput::apart(inputs[0], inputs[1], inputs[2]),
                                   {packed_segments({0, static_cast<int32_t>(tokens)}),
                                    shape,
                                    {},
                                    {c["bucket_of"], inputs[3], inputs[4], {}}});
    EXPECT_LT(relative_difference(o.detach(), array("o", tokens)), 1e-12);
    o.backward(array("d_o", tokens));
    const std::vector<std::pair<const char*, int64_t>> gradients = {
        {"d_q", tokens}, {"d_k", tokens}, {"d_v", tokens}, {"d_key", buckets}, {"d_query", buckets}};
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto& [name, rows] = gradients[i];
      EXPECT_LT(relative_difference(inputs[i].grad(), array(name, rows)), 1e-12) << name;
    }
  }
  GoldenCounts::compared("attention");
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

TEST(Attention, ColumnsThatNobodyReadsHaveNoGradient) {
  const AttentionCall call{packed_segments({0, 400, 700}), kShape, {}, {}};
  for (const bool is_composed : {false, true}) {
    const ComposedOperations form(is_composed);
    // Queries, keys and values with columns before, between and behind them, and a third array.
    const auto drawn = [](int64_t width) { return normals({700, width}, "a").requires_grad_(true); };
    const AttentionInput input{{drawn(26), drawn(7)}, {0, 3}, {0, 13}, {1, 2}};
    const at::Tensor d_o = normals({700, 8}, "d_o");
    const at::Tensor &joint = input.arrays[0], &values = input.arrays[1];
    // Memory that a gradient may come to lie in.
    for (int i = 0; i < 4; ++i) normals({700, i % 2 == 0 ? 26 : 7}, "other");
    attention(input, call).backward(d_o);
    const auto leaf = [](const at::Tensor& array, int64_t from, int64_t width) {
      return array.detach().narrow(1, from, width).contiguous().requires_grad_(true);
    };
    const at::Tensor q = leaf(joint, 3, 8), k = leaf(joint, 13, 4), v = leaf(values, 2, 4);
    attention(AttentionInput::apart(q, k, v), call).backward(d_o);
    at::Tensor of_joint = at::zeros_like(joint, joint.options().requires_grad(false)),
               of_values = at::zeros_like(values, values.options().requires_grad(false));
    of_joint.narrow(1, 3, 8).copy_(q.grad());
    of_joint.narrow(1, 13, 4).copy_(k.grad());
    of_values.narrow(1, 2, 4).copy_(v.grad());
    EXPECT_LT(relative_difference(joint.grad(), of_joint), 1e-12);
    EXPECT_LT(relative_difference(values.grad(), of_values), 1e-12);
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
  narrow.v.column = -1;
  EXPECT_THROW(attend(narrow, {{0, 6, 0, 9, 0, 0}}), Error);
  AttentionInput one{{normals({6, 12}, "all")}, {0, 0}, {0, 8}, {0, 8}};  // keys are values
  EXPECT_NO_THROW(attend(one, {{0, 6, 0, 6, 0, 0}}));
  one.arrays[0].requires_grad_(true);
  EXPECT_THROW(attend(one, {{0, 6, 0, 6, 0, 0}}), Error);
  const at::Tensor key = normals({3, 8}, "key");
  EXPECT_NO_THROW(attend(input, {{0, 6, 0, 9, 0, 0}}, {{0, 1, 2}, key, {}, {}}));
  EXPECT_THROW(attend(input, {{0, 6, 0, 9, 0, 0}}, {{0, 1, 3}, key, {}, {}}), Error);  // no bucket 3
  EXPECT_THROW(attend(input, {{0, 6, 0, 9, 0, 0}}, {{0, 1}, key, {}, {}}), Error);     // one side is longer
  EXPECT_THROW(attend(input, {{0, 6, 0, 9, 0, 0}}, {{0, 1, 2}, {}, {}, key}), Error);  // 8 biases of 2 heads
}

}  // namespace
}  // namespace msplora
