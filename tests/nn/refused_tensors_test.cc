// Tensors of a type or count that a function cannot take.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/nn/composed.h"
#include "msplora/nn/decoder_functional.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/linear_cross_entropy.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using ::testing::HasSubstr;
using testing::normals;

std::string usage(const std::function<void()>& call) {
  return error_text(ErrorCode::kUsage, call);
}

TEST(RefusedTensors, LabelsOfEveryLoss) {
  const at::Tensor hidden = normals({9, 4}, "hidden"), weight = normals({6, 4}, "weight");
  const Linear head("head", weight, {});
  const std::vector<std::function<void(const at::Tensor&)>> losses = {
      [&](const at::Tensor& labels) { cross_entropy_sum(hidden, labels); },
      [&](const at::Tensor& labels) { linear_cross_entropy_sum(hidden, weight, {}, labels); },
      [&](const at::Tensor& labels) { linear_cross_entropy_sum(hidden, head, labels, {}); },
  };
  for (const bool is_composed : {false, true}) {
    const ComposedOperations form(is_composed);
    for (const auto& loss : losses) {
      EXPECT_NO_THROW(loss(at::full({9}, 2, at::kLong)));
      for (const int64_t count : {4, 12}) {
        EXPECT_THAT(usage([&] { loss(at::full({count}, 2, at::kLong)); }),
                    HasSubstr("labels: expected 9, one for each of the rows that are read, found"));
      }
      EXPECT_THAT(usage([&] { loss(at::full({9}, 2, at::kInt)); }),
                  HasSubstr("labels: expected int64, found int32"));
      EXPECT_THAT(usage([&] { loss(at::full({9, 1}, 2, at::kLong)); }), HasSubstr("found the shape [9, 1]"));
      EXPECT_THAT(usage([&] { loss({}); }), HasSubstr("undefined"));
    }
  }
  EXPECT_THAT(usage([&] { cross_entropy_sum(hidden.view({36}), at::full({36}, 2, at::kLong)); }),
              HasSubstr("logits: expected [rows, classes]"));
}

TEST(RefusedTensors, TargetsOfRegression) {
  const at::Tensor predictions = normals({5, 1}, "predictions");
  EXPECT_THAT(usage([&] { squared_error_sum(predictions, at::zeros({1})); }),
              HasSubstr("targets: expected 5, one for each prediction, found 1"));
  const double sum = squared_error_sum(predictions, at::zeros({5})).item<double>();
  EXPECT_DOUBLE_EQ(squared_error_sum(predictions, at::zeros({5, 1})).item<double>(), sum);
}

TEST(RefusedTensors, IdsOfEmbeddings) {
  const at::Tensor table = normals({8, 4}, "table");
  const at::Tensor ids = at::arange(6, at::kLong);
  for (const bool is_composed : {false, true}) {
    const ComposedOperations form(is_composed);
    const auto sum = [&](const std::vector<Embedding>& parts) { return embedding_sum(parts, at::kDouble); };
    EXPECT_THAT(usage([&] {
                  sum({{table, ids.to(at::kInt)}});
                }),
                HasSubstr("ids: expected int64, found int32"));
    EXPECT_THAT(usage([&] { sum({{table, {}}}); }), HasSubstr("undefined"));
    EXPECT_THAT(usage([&] {
                  sum({{table, ids}, {table, ids.narrow(0, 0, 5)}});
                }),
                HasSubstr("ids: expected 6, one for each of the rows of the sum, found 5"));
    EXPECT_THAT(usage([&] {
                  sum({{table, ids}, {normals({8, 3}, "narrow"), ids}});
                }),
                HasSubstr("expected tables [n, 4], found [8, 3]"));
    EXPECT_THAT(usage([&] { sum({}); }), HasSubstr("1 to 3 embeddings, found 0"));
    EXPECT_THAT(usage([&] {
                  sum({{table, ids}, {table, {}}, {table, {}}, {table, {}}});
                }),
                HasSubstr("found 4"));
    const at::Tensor apart = at::arange(6, at::kLong).view({3, 2}).select(1, 1);
    EXPECT_TRUE(sum({{table, apart}}).equal(table.index_select(0, apart)));
  }
}

TEST(RefusedTensors, PositionsAndEndsOfSequences) {
  EXPECT_THAT(usage([] { segment_positions({1, 4}); }), HasSubstr("cu_seqlens: expected 0 and then the end"));
  EXPECT_THAT(usage([] { segment_positions({0, 4, 2}); }), HasSubstr("found 2 after 4"));
  EXPECT_EQ(segment_positions({}).numel(), 0);
  EXPECT_EQ(segment_positions({0, 0, 2}).numel(), 2);
  const RotaryTable table = make_rotary_table(8, rotary_frequencies(4, 1e4), at::kDouble);
  const auto turn = [&](const at::Tensor& positions) {
    rotary_(normals({5, 8}, "x"), positions, 2, 4, table);
  };
  EXPECT_NO_THROW(turn(at::arange(5, at::kInt)));
  EXPECT_THAT(usage([&] { turn(at::arange(4, at::kInt)); }),
              HasSubstr("positions: expected 5, one for each row, found 4"));
}

}  // namespace
}  // namespace msplora
