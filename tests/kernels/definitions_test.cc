// What kernels mean beyond their cases (bench/op_cases): definitions, distributions, extreme values.
#include "msplora/kernels/kernels.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/kernel_helpers.h"
#include "kernels/tile_permission.h"
#include "msplora/core/error.h"
#include "msplora/kernels/gemm.h"

namespace msplora::kernels {
namespace {

TEST_P(KernelsOfEveryIsa, DropoutKeepsTheRightShareAndTheMean) {
  const int64_t n = 1 << 20;
  const std::vector<float> x(static_cast<size_t>(n), 1.0f);
  std::vector<float> y(x.size());
  dropout<float>({n, {77, 0.1}, x.data(), y.data()});
  double kept = 0, sum = 0;
  for (const float value : y) {
    kept += value != 0;
    sum += value;
  }
  EXPECT_NEAR(kept / static_cast<double>(n), 0.9, 4 * std::sqrt(0.09 / static_cast<double>(n)));
  EXPECT_NEAR(sum / static_cast<double>(n), 1.0, 0.002);
}

// Results that are rounded to bfloat16 take a shorter GELU.
TEST_P(KernelsOfEveryIsa, GeluOfBfloat16) {
  std::vector<float> x;
  for (float value = -20.0f; value <= 20.0f; value += 0.01f) x.push_back(value);
  const std::vector<Bfloat16> narrow = to_bf16(x);
  x = to_float(narrow);
  const auto n = static_cast<int64_t>(x.size());
  std::vector<Bfloat16> y(x.size()), slope(x.size());
  activate<Bfloat16>({n, Activation::kGelu, narrow.data(), y.data(), slope.data()});
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i], cdf = 0.5 * std::erfc(-v / std::sqrt(2.0));
    const double exact = v * cdf, derivative = cdf + v * std::exp(-v * v / 2) / std::sqrt(2 * M_PI);
    ASSERT_NEAR(to_float(y[i]), exact, 2e-4 + std::abs(exact) / 256) << v;
    ASSERT_NEAR(to_float(slope[i]), derivative, 6e-4 + std::abs(derivative) / 256) << v;
  }
}

TEST_P(KernelsOfEveryIsa, ActivationsKeepNan) {
  const std::vector<float> x = {NAN, 1.0f, NAN};
  std::vector<float> y(3);
  for (const Activation kind : {Activation::kGelu, Activation::kRelu, Activation::kSilu, Activation::kTanh}) {
    activate<float>({3, kind, x.data(), y.data(), nullptr});
    EXPECT_TRUE(std::isnan(y[0]) && std::isnan(y[2]) && !std::isnan(y[1])) << static_cast<int>(kind);
  }
}

/// Noise of deviation 1 on a matrix of zeros.
std::vector<float> noise(int64_t rows, int64_t width, uint64_t key) {
  std::vector<float> w(static_cast<size_t>(rows * width)), y(w.size());
  const std::vector<float> deviations(static_cast<size_t>(rows), 1.0f);
  add_row_noise<float>({rows, width, key, deviations.data(), w.data(), y.data()});
  return y;
}

TEST_P(KernelsOfEveryIsa, NoiseIsStandardNormalAndIndependent) {
  const int64_t rows = 256, width = 4096;
  const std::vector<float> numbers = noise(rows, width, 77);
  const auto n = static_cast<double>(numbers.size());
  double mean = 0, variance = 0, fourth = 0, beyond = 0, along = 0, across = 0;
  for (size_t i = 0; i < numbers.size(); ++i) {
    const double x = numbers[i];
    mean += x / n;
    variance += x * x / n;
    fourth += x * x * x * x / n;
    beyond += (std::abs(x) > 2.0) / n;
    if (i >= 1) along += x * numbers[i - 1] / n;
    if (i >= static_cast<size_t>(width)) across += x * numbers[i - static_cast<size_t>(width)] / n;
  }
  const double error = 5.0 / std::sqrt(n);
  EXPECT_NEAR(mean, 0.0, error);
  EXPECT_NEAR(variance, 1.0, std::sqrt(2.0) * error);
  EXPECT_NEAR(fourth, 3.0, std::sqrt(96.0) * error);
  EXPECT_NEAR(beyond, 0.0455003, 0.21 * error);
  EXPECT_NEAR(along, 0.0, error);
  EXPECT_NEAR(across, 0.0, error);
  const std::vector<float> others = noise(rows, width, 78);
  double between = 0;
  for (size_t i = 0; i < numbers.size(); ++i) between += numbers[i] * static_cast<double>(others[i]) / n;
  EXPECT_NEAR(between, 0.0, error);
}

TEST_P(KernelsOfEveryIsa, CrossEntropyOfExtremeLogits) {
  // The label's logit towers above all others, or below; nothing overflows.
  std::vector<float> logits = {500, -500, 0, -500, 500, 0};
  const std::vector<int64_t> labels = {0, 0};
  std::vector<double> losses(2);
  cross_entropy_rows<float>({2, 3, 0.0, labels.data(), true, logits.data(), losses.data()});
  EXPECT_NEAR(losses[0], 0.0, 1e-6);
  EXPECT_NEAR(losses[1], 1000.0, 1e-3);
  EXPECT_NEAR(logits[3], -1.0f, 1e-6);
  EXPECT_NEAR(logits[4], 1.0f, 1e-6);
  std::vector<float> broken = {1, NAN, 2};
  cross_entropy_rows<float>({1, 3, 0.0, labels.data(), false, broken.data(), losses.data()});
  EXPECT_TRUE(std::isnan(losses[0]));
}

TEST_P(KernelsOfEveryIsa, NanAndInfinityPassThroughProducts) {
  std::vector<float> x = normals(32, "x"), y(28), packed;
  const std::vector<float> w = normals(56, "w");
  x[3] = INFINITY;
  x[8] = NAN;
  packed.resize(static_cast<size_t>(packed_gemm_elements<float>(active_isa(), 8, 7)));
  pack_gemm<float>({8, 7, 7, 1, active_isa(), w.data(), packed.data(), nullptr});
  PackedGemm<float> op;
  op.rows = 4, op.inner = 8, op.width = 7;
  op.isa = active_isa();
  op.x = x.data(), op.packed = packed.data(), op.y = y.data();
  packed_gemm<float>(op);
  EXPECT_TRUE(std::isinf(y[0]));
  EXPECT_TRUE(std::isnan(y[7]));
  EXPECT_TRUE(std::isfinite(y[14]));
}

/// Two heads of 16 over these segments.
template <class T>
Attention<T> attention_over(const std::vector<AttentionSegment>& segments, const T* q, const T* k, const T* v,
                            T* o) {
  Attention<T> op;
  op.segments = segments.data();
  op.num_segments = static_cast<int64_t>(segments.size());
  op.heads = op.kv_heads = 2, op.head_dim = 16;
  op.q_stride = op.k_stride = op.v_stride = op.o_stride = 32;
  op.q = q, op.k = k, op.v = v, op.o = o;
  return op;
}

std::vector<double> as_double(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

/// Rounding of a sum of float32 products: kernels that sum in another order differ from each other by twice
/// as much.
constexpr double kAttentionRounding = 2e-6;

// What a window means: attention without one, over the keys in sight alone, in float64.
TEST_P(KernelsOfEveryIsa, AWindowIsAttentionOverTheKeysInSight) {
  const std::vector<int32_t> bounds = {0, 5, 6, 101};
  const std::vector<AttentionSegment> segments = {
      {0, 5, 0, 5, 0, 0}, {5, 1, 5, 1, 0, 0}, {6, 95, 6, 95, 0, 0}};
  const std::vector<float> q = normals(101 * 32, "q"), k = normals(101 * 32, "k"), v = normals(101 * 32, "v");
  const std::vector<double> wide_q = as_double(q), wide_k = as_double(k), wide_v = as_double(v);
  for (const auto& [left, right] :
       {std::pair{-1, -1}, {-1, 0}, {0, 0}, {6, 0}, {17, 40}, {-1, 3}, {500, 0}}) {
    std::vector<float> o(q.size()), alone(q.size());
    std::vector<double> exact(q.size());
    Attention<float> op = attention_over(segments, q.data(), k.data(), v.data(), o.data());
    op.window_left = left, op.window_right = right;
    attention(op);
    for (size_t s = 0; s < 3; ++s) {
      for (int32_t token = bounds[s]; token < bounds[s + 1]; ++token) {
        const int32_t from = left < 0 ? bounds[s] : std::max(bounds[s], token - left);
        const int32_t to = right < 0 ? bounds[s + 1] : std::min(bounds[s + 1], token + right + 1);
        const std::vector<AttentionSegment> in_sight = {{token, 1, from, to - from, 0, 0}};
        attention(attention_over(in_sight, q.data(), k.data(), v.data(), alone.data()));
        attention(attention_over(in_sight, wide_q.data(), wide_k.data(), wide_v.data(), exact.data()));
        for (int32_t i = token * 32; i < (token + 1) * 32; ++i) {
          EXPECT_NEAR(o[i], exact[i], kAttentionRounding) << left << " " << right;
          EXPECT_NEAR(alone[i], exact[i], kAttentionRounding) << left << " " << right;
        }
      }
    }
  }
}

// A number that is none spoils the rows that depend on it, whose sums say so, and no other.
template <typename T>
void expect_nan_of_one_query(const std::vector<T>& q, const std::vector<T>& k, const std::vector<T>& v) {
  const std::vector<AttentionSegment> segments = {{0, 40, 0, 40, 0, 0}};
  std::vector<T> o(q.size());
  std::vector<float> lse(40 * 2);
  Attention<T> op = attention_over(segments, q.data(), k.data(), v.data(), o.data());
  op.lse = lse.data();
  attention(op);
  for (size_t row = 0; row < 40; ++row) {
    for (size_t head = 0; head < 2; ++head) {
      const bool is_spoilt = row == 17 && head == 0;
      EXPECT_EQ(std::isnan(lse[row * 2 + head]), is_spoilt) << row << ", head " << head;
      EXPECT_EQ(std::isnan(to_float(o[row * 32 + head * 16])), is_spoilt) << row << ", head " << head;
    }
  }
}
TEST_P(KernelsOfEveryIsa, AttentionKeepsNan) {
  std::vector<float> q = normals(40 * 32, "q");
  const std::vector<float> k = normals(40 * 32, "k"), v = normals(40 * 32, "v");
  q[17 * 32 + 3] = NAN;  // of the first head
  expect_nan_of_one_query(q, k, v);
  expect_nan_of_one_query(to_bf16(q), to_bf16(k), to_bf16(v));
}

// Tokens that come one by one, or in parts, behind a cache of keys have the numbers that they have all at
// once.
TEST_P(KernelsOfEveryIsa, CachedAttentionIsPartOfAll) {
  const std::vector<AttentionSegment> all = {{0, 5, 0, 5, 0, 0}, {5, 48, 5, 48, 0, 0}};
  const std::vector<float> q = normals(53 * 32, "q"), k = normals(53 * 32, "k"), v = normals(53 * 32, "v");
  const std::vector<double> wide_q = as_double(q), wide_k = as_double(k), wide_v = as_double(v);
  for (const auto& [left, right] : {std::pair{-1, -1}, {-1, 0}, {9, 0}, {2, 20}}) {
    std::vector<double> exact(q.size());
    Attention<double> whole = attention_over(all, wide_q.data(), wide_k.data(), wide_v.data(), exact.data());
    whole.window_left = left, whole.window_right = right;
    attention(whole);
    for (const int32_t part : {1, 7, 33}) {
      std::vector<float> o(q.size()), in_parts(q.size());
      Attention<float> op = attention_over(all, q.data(), k.data(), v.data(), o.data());
      op.window_left = left, op.window_right = right;
      attention(op);
      for (int32_t at = 0; at < 48; at += part) {
        // Of the first sequence an early token, of the second the next part; keys that a window leaves behind
        // are gone.
        const int32_t gone = left < 0 ? 0 : std::max(0, at - static_cast<int32_t>(left)),
                      count = std::min(part, 48 - at);
        const int32_t seen =
            right < 0 || at + count + right > 48 ? 48 : at + count + static_cast<int32_t>(right);
        const std::vector<AttentionSegment> now = {{at % 5, 1, 0, 5, at % 5, 0},
                                                   {5 + at, count, 5 + gone, seen - gone, at, gone}};
        op.segments = now.data();
        op.o = in_parts.data();
        attention(op);
      }
      for (size_t i = 0; i < o.size(); ++i) {
        const auto place = [&] {
          return fmt::format("{} {}, parts of {}, row {}", left, right, part, i / 32);
        };
        ASSERT_NEAR(o[i], exact[i], kAttentionRounding) << place();
        if (part > 5 && i < 5 * 32) continue;
        ASSERT_NEAR(in_parts[i], exact[i], kAttentionRounding) << place();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, KernelsOfEveryIsa, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return to_string(info.param); });

TEST(ReferenceKernels, RotaryPairsAreTheNamedOnes) {
  // A quarter turn takes the first of a pair to the second: (1, 0) -> (0, 1).
  const double cos = 0, sin = 1;
  const int32_t position = 0;
  for (const RotaryPairs pairs : {RotaryPairs::kHalves, RotaryPairs::kInterleaved}) {
    std::vector<double> x = {1, 0, 0, 0};
    const std::vector<double> cosines = {cos, cos}, sines = {sin, sin};
    Rotary<double> op;
    op.tokens = op.heads = 1, op.head_dim = op.rotary_dim = op.x_stride = op.y_stride = 4;
    op.pairs = pairs;
    op.positions = &position, op.cos = cosines.data(), op.sin = sines.data();
    op.x = op.y = x.data();
    rotary<double>(op);
    const size_t partner = pairs == RotaryPairs::kHalves ? 2 : 1;
    EXPECT_EQ(x[partner], 1.0);
    EXPECT_EQ(x[0], 0.0);
  }
}

// Of bfloat16 rows too: what is trained is float32, and so are its products and gradients.
TEST_P(KernelsOfEveryIsa, LowRankFactorsKeepMoreThanSixteenBits) {
  constexpr int64_t kRows = 70, kIn = 200, kRank = 11;
  const std::vector<Bfloat16> x = to_bf16(normals(kRows * kIn, "x")),
                              dy = to_bf16(normals(kRows * kIn, "dy"));
  const std::vector<float> down = normals(kRank * kIn, "down"), up = normals(kRank * kIn, "up");
  std::vector<float> z(kRows * kRank), d_down(kRank * kIn), d_up(kRank * kIn);
  const LowRankSlice slice{0, kRank, {}};
  LowRank<Bfloat16> op;
  op.rows = kRows, op.in = kIn, op.rank = kRank;
  op.slices = &slice, op.num_slices = 1;
  op.x = x.data(), op.down = down.data(), op.z = z.data();
  low_rank<Bfloat16>(op);
  LowRankOutput<Bfloat16> output;
  output.end = kRank, output.width = output.stride = kIn;
  output.up_t = up.data(), output.dy = dy.data(), output.d_up_t = d_up.data();
  op.outputs = &output, op.num_outputs = 1;
  LowRankBackward<Bfloat16> backward;
  backward.forward = op, backward.d_down = d_down.data();
  low_rank_backward<Bfloat16>(backward);
  const std::vector<float> rows = to_float(x), gradients = to_float(dy);
  const auto product = [](const std::vector<float>& a, int64_t a_row, int64_t a_step,
                          const std::vector<float>& b, int64_t b_row, int64_t b_step, int64_t m, int64_t n,
                          int64_t k) {
    std::vector<float> c;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t p = 0; p < k; ++p)
          sum += double{a[static_cast<size_t>(i * a_row + p * a_step)]} *
                 b[static_cast<size_t>(j * b_row + p * b_step)];
        c.push_back(static_cast<float>(sum));
      }
    }
    return c;
  };
  EXPECT_LT(relative_error(z, product(rows, kIn, 1, down, kIn, 1, kRows, kRank, kIn)), 1e-5);
  EXPECT_LT(relative_error(d_up, product(z, 1, kRank, gradients, 1, kIn, kRank, kIn, kRows)), 1e-5);
  const std::vector<float> dz = product(gradients, kIn, 1, up, kIn, 1, kRows, kRank, kIn);
  EXPECT_LT(relative_error(d_down, product(dz, 1, kRank, rows, 1, kIn, kRank, kIn, kRows)), 1e-5);
}

// Else nothing tries them on most machines.
TEST(Isa, KernelsOnTilesAreTriedWhereTheirVectorInstructionsAre) {
  const std::vector<Isa> available = available_isas();
  const auto has = [&](Isa isa) {
    return std::find(available.begin(), available.end(), isa) != available.end();
  };
  if (!has(Isa::kAvx512Bf16)) GTEST_SKIP() << "no AVX512_BF16";
  EXPECT_TRUE(has(Isa::kAmx));
}

TEST(Isa, UnknownOnesAreRefusedAndTheBestIsChosen) {
  const char* named = std::getenv(kIsaVariable);
  const std::vector<Isa> available = available_isas();
  const bool is_emulated = available.back() == Isa::kAmx && !processor_has_tiles();
  const Isa best = is_emulated ? available[available.size() - 2] : available.back();
  EXPECT_EQ(active_isa(), named != nullptr ? isa_named(named) : best);
  for (const Isa isa : available) EXPECT_EQ(isa_named(to_string(isa)), isa);
  for (const char* name : {"", "avx", "AVX2", "unknown"}) EXPECT_THROW(isa_named(name), Error) << name;
  EXPECT_EQ(available_isas().front(), Isa::kPortable);
}

}  // namespace
}  // namespace msplora::kernels
