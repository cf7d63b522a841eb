#include "msplora/kernels/kernels.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/kernel_helpers.h"
#include "kernels/reference.h"
#include "msplora/core/random.h"

namespace msplora::kernels {
namespace {

TEST_P(KernelsOfEveryIsa, DropoutMaskIsTheDefinedOne) {
  for (const int64_t n : {1, 15, 127, 128, 129, 1000, 40001}) {
    const std::vector<float> x(static_cast<size_t>(n), 1.0f);
    std::vector<float> y(x.size());
    const DropoutMask mask{0x123456789ABCDEFull + static_cast<uint64_t>(n), 0.1};
    dropout<float>(x.data(), y.data(), n, mask);
    for (int64_t i = 0; i < n; ++i)
      ASSERT_FLOAT_EQ(y[i], static_cast<float>(ref::mask_factor(mask, static_cast<uint64_t>(i))))
          << i << " of " << n;
  }
}

TEST_P(KernelsOfEveryIsa, DropoutDoesNotDependOnTheNumberOfThreads) {
  const std::vector<float> x = normals(100003, "x");
  const int threads = omp_get_max_threads();
  std::vector<float> one(x.size()), many(x.size());
  omp_set_num_threads(1);
  dropout<float>(x.data(), one.data(), 100003, {5, 0.3});
  omp_set_num_threads(3);
  dropout<float>(x.data(), many.data(), 100003, {5, 0.3});
  omp_set_num_threads(threads);
  EXPECT_EQ(one, many);
}

TEST_P(KernelsOfEveryIsa, DropoutKeepsTheRightShareAndTheMean) {
  const int64_t n = 1 << 20;
  const std::vector<float> x(static_cast<size_t>(n), 1.0f);
  std::vector<float> y(x.size());
  dropout<float>(x.data(), y.data(), n, {77, 0.1});
  double kept = 0, sum = 0;
  for (const float value : y) {
    kept += value != 0;
    sum += value;
  }
  EXPECT_NEAR(kept / static_cast<double>(n), 0.9, 4 * std::sqrt(0.09 / static_cast<double>(n)));
  EXPECT_NEAR(sum / static_cast<double>(n), 1.0, 0.002);
}

TEST_P(KernelsOfEveryIsa, EmbeddingsAreSummed) {
  for (const int64_t width : {1, 7, 16, 100}) {
    const auto n = static_cast<size_t>(width);
    const std::vector<float> words = normals(9 * n, "words"), places = normals(5 * n, "places"),
                             types = normals(2 * n, "types");
    const std::vector<int64_t> word_ids = {3, 0, 8, 8, 1}, place_ids = {0, 1, 2, 3, 4};
    std::vector<float> y(5 * n), expected(5 * n);
    EmbeddingSum<float> op{
        5,       width, 3, {words.data(), places.data(), types.data()}, {word_ids.data(), place_ids.data()},
        y.data()};
    embedding_sum<float>(op);
    op.y = expected.data();
    ref::float_table().embedding_sum(op);
    EXPECT_LT(relative_error(y, expected), 1e-6);
    const auto narrow_words = to_bf16(words), narrow_places = to_bf16(places);
    std::vector<Bfloat16> narrow(5 * n);
    embedding_sum<Bfloat16>({5,
                             width,
                             2,
                             {narrow_words.data(), narrow_places.data()},
                             {word_ids.data(), place_ids.data()},
                             narrow.data()});
    op.parts = 2;
    ref::float_table().embedding_sum(op);
    EXPECT_LT(relative_error(to_float(narrow), expected), 1e-2);
  }
}

// Results that are rounded to bfloat16 take a shorter GELU.
TEST_P(KernelsOfEveryIsa, GeluOfBfloat16) {
  std::vector<float> x;
  for (float value = -20.0f; value <= 20.0f; value += 0.01f) x.push_back(value);
  const std::vector<Bfloat16> narrow = to_bf16(x);
  x = to_float(narrow);
  const auto n = static_cast<int64_t>(x.size());
  std::vector<Bfloat16> y(x.size()), slope(x.size());
  activation<Bfloat16>(Activation::kGelu, narrow.data(), y.data(), slope.data(), n);
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i], cdf = 0.5 * std::erfc(-v / std::sqrt(2.0));
    const double exact = v * cdf, derivative = cdf + v * std::exp(-v * v / 2) / std::sqrt(2 * M_PI);
    ASSERT_NEAR(to_float(y[i]), exact, 2e-4 + std::abs(exact) / 256) << v;
    ASSERT_NEAR(to_float(slope[i]), derivative, 6e-4 + std::abs(derivative) / 256) << v;
  }
}

TEST_P(KernelsOfEveryIsa, ActivationsAndTheirDerivatives) {
  for (const Activation kind :
       {Activation::kGelu, Activation::kGeluTanh, Activation::kRelu, Activation::kSilu, Activation::kTanh}) {
    for (const size_t n : {1, 3, 16, 100, 20011}) {
      std::vector<float> x = normals(n, "x"), dy = normals(n, "dy");
      for (float& value : x) value *= 3;
      const auto& reference = ref::float_table();
      std::vector<float> y(n), y_ref(n), slope(n), slope_ref(n), alone(n), product(n);
      const auto count = static_cast<int64_t>(n);
      activation<float>(kind, x.data(), y.data(), slope.data(), count);
      activation<float>(kind, x.data(), alone.data(), nullptr, count);
      reference.activation(kind, x.data(), y_ref.data(), slope_ref.data(), count);
      EXPECT_LT(relative_error(y, y_ref), 3e-6);
      EXPECT_LT(relative_error(slope, slope_ref), 3e-6);
      EXPECT_EQ(alone, y);
      multiply<float>(slope.data(), dy.data(), product.data(), count);
      for (size_t i = 0; i < n; ++i) ASSERT_EQ(product[i], slope[i] * dy[i]);
    }
  }
}

TEST_P(KernelsOfEveryIsa, ActivationsKeepNan) {
  const std::vector<float> x = {NAN, 1.0f, NAN};
  std::vector<float> y(3);
  for (const Activation kind : {Activation::kGelu, Activation::kRelu, Activation::kSilu, Activation::kTanh}) {
    activation<float>(kind, x.data(), y.data(), nullptr, 3);
    EXPECT_TRUE(std::isnan(y[0]) && std::isnan(y[2]) && !std::isnan(y[1])) << static_cast<int>(kind);
  }
}

struct NormResult {
  std::vector<float> s, y, mean, rstd, d_x, d_residual, d_gamma, d_beta;
};

template <typename T, typename Forward, typename Backward>
NormResult run_norm(int64_t rows, int64_t width, DropoutMask mask, const std::vector<T>& x,
                    const std::vector<T>& residual, const std::vector<T>& dy, Forward forward,
                    Backward backward) {
  const std::vector<float> gamma = normals(static_cast<size_t>(width), "gamma"),
                           beta = normals(static_cast<size_t>(width), "beta");
  const size_t n = x.size();
  std::vector<T> s(n), y(n), d_x(n), d_residual(n);
  NormResult result;
  result.mean.resize(static_cast<size_t>(rows));
  result.rstd.resize(static_cast<size_t>(rows));
  result.d_gamma.resize(gamma.size());
  result.d_beta.resize(beta.size());
  forward(ResidualLayerNorm<T>{rows, width, 1e-5, mask, x.data(), residual.data(), gamma.data(), beta.data(),
                               s.data(), y.data(), result.mean.data(), result.rstd.data()});
  backward(ResidualLayerNormBackward<T>{rows, width, 1e-5, mask, dy.data(), s.data(), result.mean.data(),
                                        result.rstd.data(), gamma.data(), d_x.data(), d_residual.data(),
                                        result.d_gamma.data(), result.d_beta.data()});
  if constexpr (std::is_same_v<T, float>) {
    result.s = s, result.y = y, result.d_x = d_x, result.d_residual = d_residual;
  } else {
    result.s = to_float(s), result.y = to_float(y), result.d_x = to_float(d_x);
    result.d_residual = to_float(d_residual);
  }
  return result;
}

void expect_close(const NormResult& got, const NormResult& expected, double tolerance) {
  EXPECT_LT(relative_error(got.s, expected.s), tolerance);
  EXPECT_LT(relative_error(got.y, expected.y), tolerance);
  EXPECT_LT(relative_error(got.d_x, expected.d_x), tolerance);
  EXPECT_LT(relative_error(got.d_residual, expected.d_residual), tolerance);
  EXPECT_LT(relative_error(got.d_gamma, expected.d_gamma), tolerance);
  EXPECT_LT(relative_error(got.d_beta, expected.d_beta), tolerance);
}

TEST_P(KernelsOfEveryIsa, ResidualLayerNorm) {
  const auto& reference = ref::float_table();
  for (const auto& [rows, width] :
       {std::pair<int64_t, int64_t>{1, 5}, {3, 7}, {5, 32}, {17, 100}, {40, 768}}) {
    for (const double p : {0.0, 0.25}) {
      const size_t n = static_cast<size_t>(rows * width);
      const std::vector<float> x = normals(n, "x"), residual = normals(n, "r"), dy = normals(n, "dy");
      const DropoutMask mask{99, p};
      const NormResult expected =
          run_norm<float>(rows, width, mask, x, residual, dy, reference.residual_layer_norm,
                          reference.residual_layer_norm_backward);
      expect_close(run_norm<float>(rows, width, mask, x, residual, dy, residual_layer_norm<float>,
                                   residual_layer_norm_backward<float>),
                   expected, 2e-5);
      if (width < 7) continue;  // rounding s to bfloat16 leaves nothing of a one-element row
      expect_close(run_norm<Bfloat16>(rows, width, mask, to_bf16(x), to_bf16(residual), to_bf16(dy),
                                      residual_layer_norm<Bfloat16>, residual_layer_norm_backward<Bfloat16>),
                   expected, 4e-2);
    }
  }
}

struct AttentionCase {
  std::vector<int32_t> cu_seqlens;
  int64_t heads, kv_heads, dim;
  double p;
  int64_t left = -1, right = -1;
  Queries queries = Queries::kAll;

  int64_t query_rows() const {
    return queries == Queries::kAll ? cu_seqlens.back() : static_cast<int64_t>(cu_seqlens.size()) - 1;
  }
};

struct AttentionResult {
  std::vector<float> o, lse, dq, dk, dv;
};

template <typename T, typename Forward, typename Backward>
AttentionResult run_attention(const AttentionCase& c, Forward forward, Backward backward) {
  const int64_t tokens = c.cu_seqlens.back();
  const size_t nq = static_cast<size_t>(c.query_rows() * c.heads * c.dim),
               nk = static_cast<size_t>(tokens * c.kv_heads * c.dim);
  const auto make = [](size_t n, const char* name) {
    if constexpr (std::is_same_v<T, float>) {
      return normals(n, name);
    } else {
      return to_bf16(normals(n, name));
    }
  };
  const std::vector<T> q = make(nq, "q"), k = make(nk, "k"), v = make(nk, "v"), d_o = make(nq, "do");
  std::vector<T> o(nq), dq(nq), dk(nk), dv(nk);
  AttentionResult result;
  result.lse.resize(static_cast<size_t>(c.query_rows() * c.heads));
  SegmentAttention<T> op;
  op.cu_seqlens = c.cu_seqlens.data();
  op.segments = static_cast<int64_t>(c.cu_seqlens.size()) - 1;
  op.heads = c.heads, op.kv_heads = c.kv_heads, op.head_dim = c.dim;
  op.q_stride = op.o_stride = c.heads * c.dim, op.k_stride = op.v_stride = c.kv_heads * c.dim;
  op.scale = 1.0 / std::sqrt(static_cast<double>(c.dim));
  op.window_left = c.left, op.window_right = c.right;
  op.queries = c.queries;
  op.mask = {31, c.p};
  op.q = q.data(), op.k = k.data(), op.v = v.data(), op.o = o.data(), op.lse = result.lse.data();
  forward(op);
  backward(SegmentAttentionBackward<T>{op, d_o.data(), dq.data(), dk.data(), dv.data()});
  if constexpr (std::is_same_v<T, float>) {
    result.o = o, result.dq = dq, result.dk = dk, result.dv = dv;
  } else {
    result.o = to_float(o), result.dq = to_float(dq), result.dk = to_float(dk), result.dv = to_float(dv);
  }
  return result;
}

void expect_attention_like_reference(const std::vector<AttentionCase>& cases) {
  const auto& reference = ref::float_table();
  for (const AttentionCase& c : cases) {
    SCOPED_TRACE(::testing::Message() << "window " << c.left << " " << c.right << ", queries "
                                      << static_cast<int>(c.queries) << ", tokens " << c.cu_seqlens.back());
    const AttentionResult expected =
        run_attention<float>(c, reference.segment_attention, reference.segment_attention_backward);
    const AttentionResult got =
        run_attention<float>(c, segment_attention<float>, segment_attention_backward<float>);
    EXPECT_LT(relative_error(got.o, expected.o), 5e-6);
    EXPECT_LT(relative_error(got.lse, expected.lse), 5e-6);
    EXPECT_LT(relative_error(got.dq, expected.dq), 1e-5);
    EXPECT_LT(relative_error(got.dk, expected.dk), 1e-5);
    EXPECT_LT(relative_error(got.dv, expected.dv), 1e-5);
    const AttentionResult rounded =
        run_attention<Bfloat16>(c, segment_attention<Bfloat16>, segment_attention_backward<Bfloat16>);
    EXPECT_LT(relative_error(rounded.o, expected.o), 3e-2);
    EXPECT_LT(relative_error(rounded.dq, expected.dq), 5e-2);
    EXPECT_LT(relative_error(rounded.dk, expected.dk), 5e-2);
    EXPECT_LT(relative_error(rounded.dv, expected.dv), 5e-2);
  }
}

TEST_P(KernelsOfEveryIsa, SegmentAttention) {
  expect_attention_like_reference({{{0, 1, 3}, 1, 1, 8, 0.0},
                                   {{0, 5, 22, 31}, 4, 4, 8, 0.0},
                                   {{0, 33, 34, 130}, 2, 2, 64, 0.1},
                                   {{0, 7, 80}, 4, 2, 24, 0.0, -1, 0},
                                   {{0, 65, 100}, 6, 2, 16, 0.2, -1, 0},
                                   {{0, 17}, 3, 1, 5, 0.0},
                                   {{0, 40, 41}, 2, 1, 32, 0.1, -1, -1, Queries::kFirst},
                                   {{0, 9, 70}, 2, 2, 6, 0.0, -1, 0, Queries::kLast}});
}

// To both sides, of one token, beyond the segment, no multiple of a tile, with whole tiles out of sight on
// either side; with masks that are drawn for the columns in sight alone (long segments) and for all.
TEST_P(KernelsOfEveryIsa, SegmentAttentionInWindows) {
  expect_attention_like_reference({{{0, 7, 80}, 4, 2, 24, 0.0, 0, 0},
                                   {{0, 7, 80}, 4, 2, 24, 0.0, 5, 0},
                                   {{0, 3, 103, 104}, 2, 1, 16, 0.0, 500, 0},
                                   {{0, 33, 34, 230}, 2, 2, 32, 0.0, 19, 0},
                                   {{0, 33, 34, 230}, 2, 2, 32, 0.2, 19, 0},
                                   {{0, 150}, 6, 2, 16, 0.1, 100, 0},
                                   {{0, 129, 200}, 2, 2, 64, 0.0, 63, 0},
                                   {{0, 5, 150}, 2, 2, 8, 0.0, 4, 4},
                                   {{0, 170, 171}, 3, 1, 10, 0.1, 21, 38},
                                   {{0, 100}, 2, 1, 16, 0.0, -1, 5},
                                   {{0, 120}, 2, 1, 16, 0.0, 7, -1},
                                   {{0, 90}, 2, 2, 16, 0.0, 0, -1},
                                   {{0, 77, 99}, 3, 1, 5, 0.0, 16, 0},
                                   {{0, 90, 91, 99}, 4, 2, 16, 0.0, 6, 0, Queries::kLast},
                                   {{0, 90, 91, 99}, 4, 2, 16, 0.2, 40, 3, Queries::kLast},
                                   {{0, 90, 91, 99}, 4, 2, 16, 0.1, 3, 20, Queries::kFirst}});
}

// What a window means, from attention without one: over the keys in sight alone, and token by token.
TEST_P(KernelsOfEveryIsa, AWindowIsAttentionOverTheKeysInSight) {
  const std::vector<int32_t> bounds = {0, 5, 6, 101};
  const std::vector<float> q = normals(101 * 32, "q"), k = normals(101 * 32, "k"), v = normals(101 * 32, "v");
  for (const auto& [left, right] :
       {std::pair{-1, -1}, {-1, 0}, {0, 0}, {6, 0}, {17, 40}, {-1, 3}, {500, 0}}) {
    std::vector<float> o(q.size()), alone(32);
    SegmentAttention<float> op;
    op.cu_seqlens = bounds.data();
    op.segments = 3, op.heads = op.kv_heads = 2, op.head_dim = 16;
    op.q_stride = op.k_stride = op.v_stride = op.o_stride = 32;
    op.window_left = left, op.window_right = right;
    op.q = q.data(), op.k = k.data(), op.v = v.data(), op.o = o.data();
    segment_attention(op);
    for (size_t s = 0; s < 3; ++s) {
      for (int32_t token = bounds[s]; token < bounds[s + 1]; ++token) {
        const int32_t from = left < 0 ? bounds[s] : std::max(bounds[s], token - left);
        const int32_t to = right < 0 ? bounds[s + 1] : std::min(bounds[s + 1], token + right + 1);
        const std::vector<int32_t> in_sight = {0, to - from};
        SegmentAttention<float> part = op;
        part.cu_seqlens = in_sight.data();
        part.segments = 1;
        part.window_left = part.window_right = -1;
        part.queries = Queries::kFirst;
        part.q = &q[token * 32], part.k = &k[from * 32], part.v = &v[from * 32], part.o = alone.data();
        segment_attention(part);
        for (size_t c = 0; c < 32; ++c)
          EXPECT_NEAR(o[token * 32 + c], alone[c], 2e-6) << left << " " << right;
      }
    }
  }
}

// The last layer of a classifier: the same numbers as from all queries, at the first or last rows.
TEST_P(KernelsOfEveryIsa, AttentionOfOneQueryIsPartOfAll) {
  const std::vector<int32_t> bounds = {0, 5, 6, 53};
  const std::vector<float> q = normals(53 * 32, "q"), k = normals(53 * 32, "k"), v = normals(53 * 32, "v");
  for (const auto& [left, right] : {std::pair{-1, -1}, {-1, 0}, {9, 0}, {2, 20}}) {
    for (const Queries queries : {Queries::kFirst, Queries::kLast}) {
      std::vector<float> q_one, o(q.size()), o_one(3 * 32);
      std::vector<size_t> rows;
      for (size_t s = 0; s < 3; ++s)
        rows.push_back(static_cast<size_t>(queries == Queries::kFirst ? bounds[s] : bounds[s + 1] - 1));
      for (const size_t row : rows) q_one.insert(q_one.end(), &q[row * 32], &q[row * 32] + 32);
      SegmentAttention<float> op;
      op.cu_seqlens = bounds.data();
      op.segments = 3, op.heads = op.kv_heads = 2, op.head_dim = 16;
      op.q_stride = op.k_stride = op.v_stride = op.o_stride = 32;
      op.window_left = left, op.window_right = right;
      op.q = q.data(), op.k = k.data(), op.v = v.data(), op.o = o.data();
      segment_attention(op);
      op.queries = queries;
      op.q = q_one.data(), op.o = o_one.data();
      segment_attention(op);
      for (size_t s = 0; s < 3; ++s)
        for (size_t c = 0; c < 32; ++c) EXPECT_FLOAT_EQ(o_one[s * 32 + c], o[rows[s] * 32 + c]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, KernelsOfEveryIsa, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return to_string(info.param); });

// The plain twins themselves, against finite differences in double.
TEST(ReferenceKernels, AttentionBackwardMatchesFiniteDifferences) {
  const std::vector<int32_t> cu_seqlens = {0, 3, 7};
  const int64_t heads = 2, dim = 3, n = 7 * heads * dim;
  std::vector<double> q, k, v, d_o;
  for (auto* values : {&q, &k, &v, &d_o}) {
    RandomStream stream(
        3, std::to_string(values == &q) + std::to_string(values == &k) + std::to_string(values == &v));
    for (int64_t i = 0; i < n; ++i) values->push_back(stream.normal());
  }
  std::vector<double> o(q.size()), dq(q.size()), dk(q.size()), dv(q.size());
  std::vector<float> lse(7 * heads);
  SegmentAttention<double> op;
  op.cu_seqlens = cu_seqlens.data();
  op.segments = 2, op.heads = op.kv_heads = heads, op.head_dim = dim;
  op.q_stride = op.k_stride = op.v_stride = op.o_stride = heads * dim;
  op.scale = 0.5;
  op.mask = {9, 0.2};
  op.q = q.data(), op.k = k.data(), op.v = v.data(), op.o = o.data(), op.lse = lse.data();
  const auto loss = [&] {
    segment_attention<double>(op);
    double sum = 0;
    for (size_t i = 0; i < o.size(); ++i) sum += o[i] * d_o[i];
    return sum;
  };
  for (const auto& [left, right] : {std::pair{-1, -1}, {-1, 0}, {1, 0}, {1, 2}}) {
    op.window_left = left, op.window_right = right;
    loss();
    segment_attention_backward<double>({op, d_o.data(), dq.data(), dk.data(), dv.data()});
    for (const auto& [values, gradient] : {std::pair{&q, &dq}, std::pair{&k, &dk}, std::pair{&v, &dv}}) {
      for (size_t i = 0; i < values->size(); ++i) {
        const double kept = (*values)[i], step = 1e-6;
        (*values)[i] = kept + step;
        const double up = loss();
        (*values)[i] = kept - step;
        const double down = loss();
        (*values)[i] = kept;
        EXPECT_NEAR((*gradient)[i], (up - down) / (2 * step), 1e-7) << left << " " << right;
      }
    }
  }
}

TEST(Isa, UnknownOnesAreRefusedAndTheBestIsChosen) {
  EXPECT_EQ(active_isa(), available_isas().back());
  EXPECT_EQ(available_isas().front(), Isa::kPortable);
}

}  // namespace
}  // namespace msplora::kernels
