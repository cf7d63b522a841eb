#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/kernel_helpers.h"
#include "msplora/kernels/gemm.h"

namespace msplora::kernels {
namespace {

class PackedGemmOfEveryIsa : public KernelsOfEveryIsa {};

/// Numbers of a name are the same ones however many are asked for; the most of them so far are kept.
template <typename T>
std::vector<T> drawn(int64_t n, const char* name) {
  static std::map<std::string, std::vector<float>> kept;
  const auto count = static_cast<size_t>(n);
  std::vector<float>& most = kept[name];
  if (most.size() < count) most = normals(count, name);
  const std::vector<float> values(most.begin(), most.begin() + n);
  if constexpr (std::is_same_v<T, float>) {
    return values;
  } else {
    return to_bf16(values);
  }
}

template <typename T>
std::vector<T> packed_by(PackGemm<T> op) {
  std::vector<T> packed(
      static_cast<size_t>(packed_gemm_elements<T>(active_isa(), op.inner, op.width, op.precision)));
  op.isa = active_isa();
  op.packed = packed.data();
  pack_gemm<T>(op);
  return packed;
}

/// What a product takes, and rows [first, first + rows) of x.
struct Question {
  int64_t rows, inner, width;
  Precision precision = Precision::kExact;
  int64_t first = 0;
};

/// x W, with W packed as it is or as its transpose.
template <typename T>
std::vector<float> product(const Question& question, bool is_turned = false) {
  const auto& [rows, inner, width, precision, first] = question;
  const std::vector<T> x = drawn<T>((first + rows) * inner, "x"), w = drawn<T>(inner * width, "w");
  const at::Tensor y =
      at::empty({rows * width}, sizeof(T) == 4 ? at::kFloat : at::kBFloat16);  // begins a line
  PackGemm<T> pack = is_turned ? PackGemm<T>{width, inner, 1, width, {}, w.data()}
                               : PackGemm<T>{inner, width, width, 1, {}, w.data()};
  pack.precision = precision;
  const std::vector<T> packed = packed_by<T>(pack);
  PackedGemm<T> op;
  op.rows = rows;
  op.inner = inner;
  op.width = width;
  op.isa = active_isa();
  op.precision = precision;
  op.x = x.data() + first * inner;
  op.packed = packed.data();
  op.is_transposed = is_turned;
  op.y = static_cast<T*>(y.data_ptr());
  packed_gemm<T>(op);
  const at::Tensor values = y.to(at::kFloat);
  return {values.data_ptr<float>(), values.data_ptr<float>() + values.numel()};
}

// Odd sizes around panels of every instruction set, blocks of rows, and an inner dimension of several ranges.
TEST_P(PackedGemmOfEveryIsa, PanelsThatAreTurnedChangeNoBit) {
  const std::vector<std::vector<int64_t>> sizes = {{1, 2, 1},    {8, 48, 48},   {9, 50, 49},
                                                   {33, 96, 95}, {20, 7000, 9}, {1100, 34, 50}};
  for (const std::vector<int64_t>& s : sizes) {
    const Question question{s[0], s[1], s[2]};
    EXPECT_EQ(product<float>(question, true), product<float>(question)) << s[1];
    EXPECT_EQ(product<Bfloat16>(question, true), product<Bfloat16>(question)) << s[1];
  }
}

template <typename T>
void expect_turned_copy(int64_t inner, int64_t width) {
  const std::vector<T> w = drawn<T>(inner * width, "w");
  PackGemm<T> op{inner, width, 0, 0, {}, nullptr};
  const std::vector<T> transposed = packed_by<T>({width, inner, 1, width, {}, w.data()});
  op.transposed = transposed.data();
  const std::vector<T> made = packed_by(op), packed = packed_by<T>({inner, width, width, 1, {}, w.data()});
  EXPECT_EQ(std::memcmp(made.data(), packed.data(), packed.size() * sizeof(T)), 0) << inner << " x " << width;
}

TEST_P(PackedGemmOfEveryIsa, ACopyOutOfThePackedTransposeIsTheSame) {
  for (const auto& [inner, width] : {std::pair{2, 2}, {48, 48}, {50, 34}, {96, 200}, {130, 66}, {700, 10}}) {
    expect_turned_copy<float>(inner, width);
    expect_turned_copy<Bfloat16>(inner, width);
  }
}

// The gradient of a vocabulary: -1 for one of very many, little for all others. Added one by one to what the
// first leaves, each would be rounded up by a fifth of itself: 9e-4 in all.
TEST_P(PackedGemmOfEveryIsa, ManySmallTermsBehindALargeOneKeepTheirSum) {
  constexpr int64_t kInner = 49152;
  const std::vector<float> w(kInner, 1.0F);
  const std::vector<float> packed = packed_by<float>({kInner, 1, 1, 1, {}, w.data()});
  for (const int64_t rows : {1, 20}) {
    std::vector<float> x(static_cast<size_t>(rows * kInner), 1e-7F), y(static_cast<size_t>(rows));
    for (int64_t row = 0; row < rows; ++row) x[static_cast<size_t>(row * kInner + 3)] = -1;
    PackedGemm<float> op;
    op.rows = rows;
    op.width = 1;
    op.inner = kInner;
    op.isa = active_isa();
    op.x = x.data(), op.packed = packed.data(), op.y = y.data();
    packed_gemm<float>(op);
    for (const float sum : y) EXPECT_NEAR(sum, -1 + 1e-7 * (kInner - 1), 6e-5) << rows;
  }
}

// A row has the same product alone as among others.
TEST_P(PackedGemmOfEveryIsa, RowsDoNotDependOnHowManyThereAre) {
  const std::vector<float> many = product<float>({20, 7000, 9}), one = product<float>({1, 7000, 9});
  // The same x and W are drawn, the first row of x first.
  EXPECT_EQ(std::vector<float>(many.begin(), many.begin() + 9), one);
}

// Several blocks of rows, and so much of y that it passes by the caches where kernels do that.
template <typename T>
void expect_rows_of_many(const Question& question) {
  const int threads = omp_get_max_threads();
  std::vector<float> many[2];
  for (const int i : {0, 1}) {
    omp_set_num_threads(i == 0 ? 1 : 3);
    many[i] = product<T>(question);
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(many[0], many[1]) << question.inner;
  for (const int64_t first : {int64_t{0}, question.rows / 2, question.rows - 20}) {
    Question few = question;
    few.rows = 20, few.first = first;
    const auto from = many[0].begin() + first * question.width;
    EXPECT_EQ(std::vector<float>(from, from + few.rows * question.width), product<T>(few))
        << question.inner << ", rows from " << first;
  }
}

TEST_P(PackedGemmOfEveryIsa, BlocksAndThreadsChangeNoBit) {
  for (const auto& [rows, inner, width] : {std::tuple{400, 3072, 70},
                                           {1100, 64, 512},
                                           {500, 3100, 34},
                                           {300, 3100, 540},
                                           {140, 1536, 200},
                                           {700, 860, 200}}) {
    for (const Precision precision : {Precision::kExact, Precision::kHigh, Precision::kMedium})
      expect_rows_of_many<float>({rows, inner, width, precision});
    expect_rows_of_many<Bfloat16>({rows, inner, width});
  }
}

// What a product gives besides: the rows [first, first + rows) of y and of the derivative, one after the
// other.
enum class Form { kFactor, kDerivative, kGated, kHalves };
template <typename T>
std::vector<float> rows_of(Form form, int64_t first, int64_t rows) {
  constexpr int64_t kAll = 1100, kInner = 64, kWidth = 480;  // whole panels of every instruction set
  const bool is_gated = form == Form::kGated, has_halves = form == Form::kHalves;
  const int64_t width = is_gated ? 2 * kWidth : kWidth, of_y = has_halves ? 2 * kWidth : kWidth;
  const std::vector<T> x = drawn<T>(kAll * kInner, "x"), w = drawn<T>(kInner * width, "w"),
                       factor = drawn<T>(kAll * of_y, "f"),
                       packed = packed_by<T>({kInner, width, width, 1, {}, w.data()});
  const std::vector<float> bias = normals(static_cast<size_t>(width), "b");
  const auto type = sizeof(T) == 4 ? at::kFloat : at::kBFloat16;
  const at::Tensor y = at::empty({rows, of_y}, type), derivative = at::zeros({rows, width}, type);
  PackedGemm<T> op;
  op.rows = rows, op.inner = kInner, op.width = width;
  op.isa = active_isa();
  op.x = x.data() + first * kInner, op.packed = packed.data(), op.y = static_cast<T*>(y.data_ptr());
  if (form == Form::kFactor || has_halves) op.factor = factor.data() + first * of_y;
  if (has_halves) op.half_width = kWidth;
  if (!has_halves) op.bias = bias.data();
  if (form == Form::kDerivative || is_gated) {
    op.is_activated = true;
    op.derivative = static_cast<T*>(derivative.data_ptr());
  }
  if (is_gated) op.gated_width = kWidth;
  packed_gemm<T>(op);
  const at::Tensor values = at::cat({y, derivative}, 1).to(at::kFloat);
  return {values.data_ptr<float>(), values.data_ptr<float>() + values.numel()};
}

template <typename T>
void expect_lines_that_change_no_bit(Form form) {
  const std::vector<float> many = rows_of<T>(form, 0, 1100);
  const auto of_row = static_cast<int64_t>(many.size()) / 1100;
  for (const int64_t first : {0, 500, 1080}) {
    const auto begin = many.begin() + first * of_row;
    EXPECT_EQ(std::vector<float>(begin, begin + 20 * of_row), rows_of<T>(form, first, 20))
        << static_cast<int>(form) << " from row " << first;
  }
}

// So many numbers that they pass by the caches, where kernels hold lines back until those beside them are
// there.
TEST_P(PackedGemmOfEveryIsa, LinesThatLeaveTogetherAreThoseOfTheirPlaces) {
  for (const Form form : {Form::kFactor, Form::kDerivative, Form::kGated, Form::kHalves}) {
    expect_lines_that_change_no_bit<float>(form);
    expect_lines_that_change_no_bit<Bfloat16>(form);
  }
}

// Largest error of a product in parts, of the largest value of y, with an update and a bias; sums are those
// of float64.
double error_of_parts(Precision precision, int64_t rows, int64_t inner, int64_t width,
                      bool out_of_transpose) {
  constexpr int64_t kRank = 5;
  const std::vector<float> x = normals(static_cast<size_t>(rows * inner), "x"),
                           w = normals(static_cast<size_t>(inner * width), "w"),
                           z = normals(static_cast<size_t>(rows * kRank), "z"),
                           up = normals(static_cast<size_t>(kRank * width), "u"),
                           bias = normals(static_cast<size_t>(width), "b");
  const auto pack = [&](PackGemm<float> op) {
    op.isa = active_isa(), op.precision = precision;
    std::vector<float> packed(
        static_cast<size_t>(packed_gemm_elements<float>(op.isa, op.inner, op.width, precision)));
    op.packed = packed.data();
    pack_gemm<float>(op);
    return packed;
  };
  std::vector<float> packed;
  if (out_of_transpose) {
    const std::vector<float> transposed = pack({width, inner, 1, width, {}, w.data()});
    PackGemm<float> turn{inner, width, 0, 0, {}, nullptr};
    turn.transposed = transposed.data();
    packed = pack(turn);
  } else {
    packed = pack({inner, width, width, 1, {}, w.data()});
  }
  const GemmUpdate update{0, kRank, 0, width, up.data()};
  std::vector<float> y(static_cast<size_t>(rows * width));
  PackedGemm<float> op;
  op.rows = rows, op.inner = inner, op.width = width;
  op.isa = active_isa(), op.precision = precision;
  op.x = x.data(), op.packed = packed.data(), op.bias = bias.data(), op.y = y.data();
  op.z = z.data(), op.rank = kRank, op.updates = &update, op.num_updates = 1;
  packed_gemm<float>(op);
  double largest = 0, error = 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      double sum = bias[static_cast<size_t>(j)];
      const auto add = [&](const std::vector<float>& a, const std::vector<float>& b, int64_t n) {
        for (int64_t k = 0; k < n; ++k)
          sum += double{a[static_cast<size_t>(i * n + k)]} * b[static_cast<size_t>(k * width + j)];
      };
      add(x, w, inner), add(z, up, kRank);
      largest = std::max(largest, std::abs(sum));
      error = std::max(error, std::abs(sum - y[static_cast<size_t>(i * width + j)]));
    }
  }
  return error / largest;
}

TEST_P(PackedGemmOfEveryIsa, PartsOfFloatsAreAsExactAsTheySay) {
  const bool has_units = GetParam() == Isa::kAmx;
  for (const auto& [rows, inner, width] :
       {std::tuple{1, 2, 1}, {50, 100, 70}, {20, 3100, 34}, {97, 800, 33}}) {
    for (const bool turned : {false, true}) {
      const double exact = error_of_parts(Precision::kExact, rows, inner, width, turned),
                   high = error_of_parts(Precision::kHigh, rows, inner, width, turned),
                   medium = error_of_parts(Precision::kMedium, rows, inner, width, turned);
      EXPECT_LT(exact, 2e-6) << inner;
      EXPECT_LT(high, 1.5e-6) << inner;
      EXPECT_LT(medium, 4e-5) << inner;
      if (!has_units) {
        EXPECT_EQ(medium, exact) << "no units, no parts";
      } else if (inner > 2) {
        EXPECT_GT(medium, 2 * high) << "two parts are what was asked for";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, PackedGemmOfEveryIsa, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return to_string(info.param); });

}  // namespace
}  // namespace msplora::kernels
