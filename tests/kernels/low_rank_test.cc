#include <gtest/gtest.h>
#include <omp.h>

#include <string>
#include <type_traits>
#include <vector>

#include "kernels/kernel_helpers.h"
#include "kernels/reference.h"
#include "msplora/core/random.h"
#include "msplora/kernels/kernels.h"

namespace msplora::kernels {
namespace {

class LowRankOfEveryIsa : public KernelsOfEveryIsa {};

struct LowRankCase {
  int64_t rows, in, out;
  std::vector<int64_t> ranks;  // of the slices
  double p;
  bool is_mixed = false;  // every second slice is without dropout
  // Widths of several outputs of equal rank, side by side in rows of `out`; empty: one output of that width.
  std::vector<int64_t> widths = {};

  int64_t up_size() const {
    int64_t size = 0;
    for (const int64_t width : outputs()) size += rank() / static_cast<int64_t>(outputs().size()) * width;
    return size;
  }
  std::vector<int64_t> outputs() const { return widths.empty() ? std::vector<int64_t>{out} : widths; }

  int64_t rank() const {
    int64_t sum = 0;
    for (const int64_t r : ranks) sum += r;
    return sum;
  }
  std::vector<LowRankSlice> slices() const {
    std::vector<LowRankSlice> slices;
    int64_t begin = 0;
    for (size_t s = 0; s < ranks.size(); ++s) {
      slices.push_back({begin, begin + ranks[s], {100 + s, is_mixed && s % 2 == 1 ? 0.0 : p}});
      begin += ranks[s];
    }
    return slices;
  }
};

struct LowRankResult {
  std::vector<float> y, z, dx, d_down, d_up_t;
};

/// The outputs of a case on these arrays.
template <typename T>
std::vector<LowRankOutput<T>> outputs_of(const LowRankCase& c, const float* up_t, T* y, const T* dy,
                                         float* d_up_t) {
  std::vector<LowRankOutput<T>> outputs;
  const auto widths = c.outputs();
  const int64_t rank = c.rank() / static_cast<int64_t>(widths.size());
  int64_t column = 0, factor = 0;
  for (const int64_t width : widths) {
    const auto begin = static_cast<int64_t>(outputs.size()) * rank;
    outputs.push_back(
        {begin, begin + rank, width, c.out, up_t + factor, y + column, dy + column, d_up_t + factor});
    column += width + 1;  // a gap that nobody may touch
    factor += rank * width;
  }
  return outputs;
}

template <typename T, typename Forward, typename Backward>
LowRankResult run(const LowRankCase& c, Forward forward, Backward backward) {
  const auto make = [](int64_t n, const char* name) {
    if constexpr (std::is_same_v<T, float>) {
      return normals(static_cast<size_t>(n), name);
    } else {
      return to_bf16(normals(static_cast<size_t>(n), name));
    }
  };
  const auto back = [](const std::vector<T>& values) {
    if constexpr (std::is_same_v<T, float>) {
      return values;
    } else {
      return to_float(values);
    }
  };
  const std::vector<LowRankSlice> slices = c.slices();
  const std::vector<T> x = make(c.rows * c.in, "x"), dy = make(c.rows * c.out, "dy");
  std::vector<T> y = make(c.rows * c.out, "y"), dx = make(c.rows * c.in, "dx");
  const std::vector<float> down = normals(static_cast<size_t>(c.rank() * c.in), "down"),
                           up_t = normals(static_cast<size_t>(c.up_size()), "up");
  LowRankResult result;
  result.z.resize(static_cast<size_t>(c.rows * c.rank()));
  result.d_down.resize(down.size());
  result.d_up_t.resize(up_t.size());
  const std::vector<LowRankOutput<T>> outputs =
      outputs_of<T>(c, up_t.data(), y.data(), dy.data(), result.d_up_t.data());
  LowRank<T> op;
  op.rows = c.rows, op.in = c.in, op.rank = c.rank();
  op.slices = slices.data(), op.num_slices = static_cast<int64_t>(slices.size());
  op.outputs = outputs.data(), op.num_outputs = static_cast<int64_t>(outputs.size());
  op.x = x.data(), op.down = down.data(), op.z = result.z.data();
  forward(op);
  backward(LowRankBackward<T>{op, dx.data(), result.d_down.data()});
  result.y = back(y);
  result.dx = back(dx);
  return result;
}

TEST_P(LowRankOfEveryIsa, LowRank) {
  const auto& reference = ref::float_table();
  const std::vector<LowRankCase> cases = {{1, 1, 1, {1}, 0.0},
                                          {5, 7, 3, {2}, 0.0},
                                          {16, 16, 48, {8, 4, 2}, 0.1},
                                          {33, 130, 65, {8, 4, 2}, 0.05},
                                          {100, 192, 192, {14}, 0.0},
                                          {17, 40, 24, {5, 1}, 0.5},
                                          {33, 130, 65, {8, 4, 2}, 0.2, true},
                                          {33, 130, 70, {4, 2, 4, 2}, 0.1, false, {35, 33}},
                                          {70, 64, 80, {9}, 0.0, false, {16, 48, 13}}};
  for (const LowRankCase& c : cases) {
    const LowRankResult expected = run<float>(c, reference.low_rank, reference.low_rank_backward);
    const LowRankResult got = run<float>(c, low_rank<float>, low_rank_backward<float>);
    EXPECT_LT(relative_error(got.y, expected.y), 1e-5);
    EXPECT_LT(relative_error(got.z, expected.z), 1e-5);
    EXPECT_LT(relative_error(got.dx, expected.dx), 1e-5);
    EXPECT_LT(relative_error(got.d_down, expected.d_down), 1e-5);
    EXPECT_LT(relative_error(got.d_up_t, expected.d_up_t), 1e-5);
    const LowRankResult rounded = run<Bfloat16>(c, low_rank<Bfloat16>, low_rank_backward<Bfloat16>);
    EXPECT_LT(relative_error(rounded.y, expected.y), 3e-2);
    EXPECT_LT(relative_error(rounded.dx, expected.dx), 3e-2);
    EXPECT_LT(relative_error(rounded.d_down, expected.d_down), 3e-2);
    EXPECT_LT(relative_error(rounded.d_up_t, expected.d_up_t), 3e-2);
  }
}

// Masks are drawn by element, so the forward pass cannot depend on the number of threads.
TEST_P(LowRankOfEveryIsa, LowRankForwardIsTheSameForOneAndTwoThreads) {
  const LowRankCase c{400, 96, 80, {8, 4, 2}, 0.1};
  const int threads = omp_get_max_threads();
  const auto backward = low_rank_backward<float>;
  omp_set_num_threads(1);
  const LowRankResult one = run<float>(c, low_rank<float>, backward),
                      again = run<float>(c, low_rank<float>, backward);
  omp_set_num_threads(2);
  const LowRankResult two = run<float>(c, low_rank<float>, backward);
  omp_set_num_threads(threads);
  EXPECT_EQ(one.y, two.y);
  EXPECT_EQ(one.dx, two.dx);
  EXPECT_EQ(one.d_down, again.d_down);
  EXPECT_LT(relative_error(two.d_down, one.d_down), 1e-5);
}

// The plain twin against finite differences in double, dropout on.
TEST(ReferenceKernels, LowRankBackwardMatchesFiniteDifferences) {
  constexpr int64_t kRows = 4, kIn = 5, kOut = 3, kRank = 3;
  const std::vector<LowRankSlice> slices = {{0, 2, {5, 0.3}}, {2, 3, {6, 0.3}}};
  const auto draw = [](int64_t n, const char* name) {
    RandomStream stream(4, name);
    std::vector<double> values(static_cast<size_t>(n));
    for (double& value : values) value = stream.normal();
    return values;
  };
  std::vector<double> x = draw(kRows * kIn, "x"), down = draw(kRank * kIn, "down"),
                      up_t = draw(kRank * kOut, "up");
  const std::vector<double> dy = draw(kRows * kOut, "dy");
  std::vector<double> z(kRows * kRank), y;
  LowRank<double> op;
  op.rows = kRows, op.in = kIn, op.rank = kRank;
  op.slices = slices.data(), op.num_slices = 2;
  op.x = x.data(), op.down = down.data(), op.z = z.data();
  LowRankOutput<double> output;
  output.end = kRank, output.width = output.stride = kOut;
  output.up_t = up_t.data(), output.dy = dy.data();
  op.outputs = &output, op.num_outputs = 1;
  const auto loss = [&] {
    y.assign(kRows * kOut, 0.0);
    output.y = y.data();
    low_rank<double>(op);
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
    return sum;
  };
  loss();
  std::vector<double> dx(x.size(), 0.0), d_down(down.size()), d_up_t(up_t.size());
  output.d_up_t = d_up_t.data();
  low_rank_backward<double>({op, dx.data(), d_down.data()});
  for (const auto& [values, gradient] :
       {std::pair{&x, &dx}, std::pair{&down, &d_down}, std::pair{&up_t, &d_up_t}}) {
    for (size_t i = 0; i < values->size(); ++i) {
      const double kept = (*values)[i], step = 1e-6;
      (*values)[i] = kept + step;
      const double up = loss();
      (*values)[i] = kept - step;
      const double under = loss();
      (*values)[i] = kept;
      EXPECT_NEAR((*gradient)[i], (up - under) / (2 * step), 1e-7);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, LowRankOfEveryIsa, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return to_string(info.param); });

}  // namespace
}  // namespace msplora::kernels
