#include "msplora/kernels/decoder.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/decoder_table.h"
#include "kernels/kernel_helpers.h"

namespace msplora::kernels {
namespace {

class DecoderKernelsOfEveryIsa : public KernelsOfEveryIsa {};

template <typename T>
std::vector<T> drawn(int64_t n, const std::string& name) {
  const std::vector<float> values = normals(static_cast<size_t>(n), name);
  if constexpr (std::is_same_v<T, Bfloat16>) return to_bf16(values);
  if constexpr (!std::is_same_v<T, Bfloat16>) return std::vector<T>(values.begin(), values.end());
}

template <typename T>
std::vector<float> as_float(const std::vector<T>& values) {
  if constexpr (std::is_same_v<T, Bfloat16>) return to_float(values);
  if constexpr (!std::is_same_v<T, Bfloat16>) return std::vector<float>(values.begin(), values.end());
}

using Arrays = std::vector<std::vector<float>>;

void expect_close(const Arrays& got, const Arrays& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_LT(relative_error(got[i], expected[i]), tolerance) << what << ", array " << i;
}

// The public functions for one T, in the form of a reference table.
template <typename T>
DecoderKernels<T> public_kernels() {
  return {&residual_rms_norm<T>, &residual_rms_norm_backward<T>, &rotary<T>, &swiglu<T>,
          &swiglu_backward<T>,   &cross_entropy_rows<T>};
}

template <typename T>
Arrays run_rms_norm(const DecoderKernels<T>& kernels, int64_t rows, int64_t width, bool has_residual) {
  const int64_t n = rows * width;
  const std::vector<T> x = drawn<T>(n, "x"), residual = drawn<T>(n, "r"), dy = drawn<T>(n, "dy"),
                       d_s = drawn<T>(n, "ds");
  const std::vector<float> gamma = normals(static_cast<size_t>(width), "gamma");
  std::vector<T> s(x.size()), y(x.size()), d_x(x.size());
  std::vector<float> inverse(static_cast<size_t>(rows)), d_gamma(gamma.size());
  kernels.residual_rms_norm({rows, width, 1e-5, x.data(), has_residual ? residual.data() : nullptr,
                             gamma.data(), s.data(), y.data(), inverse.data()});
  kernels.residual_rms_norm_backward({rows, width, 1e-5, dy.data(), has_residual ? d_s.data() : nullptr,
                                      s.data(), inverse.data(), gamma.data(), d_x.data(), d_gamma.data()});
  return {as_float(s), as_float(y), inverse, as_float(d_x), d_gamma};
}

TEST_P(DecoderKernelsOfEveryIsa, ResidualRmsNorm) {
  for (const auto& [rows, width] :
       {std::pair<int64_t, int64_t>{1, 2}, {1, 5}, {3, 17}, {5, 32}, {17, 100}, {40, 768}}) {
    for (const bool has_residual : {false, true}) {
      const Arrays expected = run_rms_norm(ref::decoder_kernels<float>(), rows, width, has_residual);
      const std::string what = std::to_string(rows) + " x " + std::to_string(width);
      expect_close(run_rms_norm(public_kernels<float>(), rows, width, has_residual), expected, 2e-5, what);
      if (width < 5) continue;  // a row of two elements has a gradient of almost 0
      expect_close(run_rms_norm(public_kernels<Bfloat16>(), rows, width, has_residual), expected, 3e-2, what);
    }
  }
}

struct RotaryCase {
  int64_t tokens, heads, head_dim, rotary_dim;
  RotaryPairs pairs;
  bool inverse;
};

template <typename T>
Arrays run_rotary(const DecoderKernels<T>& kernels, const RotaryCase& c, bool in_place) {
  const int64_t half = c.rotary_dim / 2, positions = 11, stride = c.heads * c.head_dim + 3;
  std::vector<float> cos, sin;
  for (int64_t i = 0; i < positions * half; ++i) {
    cos.push_back(std::cos(0.37f * static_cast<float>(i)));
    sin.push_back(std::sin(0.37f * static_cast<float>(i)));
  }
  std::vector<int32_t> position;
  for (int64_t t = 0; t < c.tokens; ++t) position.push_back(static_cast<int32_t>((t * 7 + 2) % positions));
  std::vector<T> x = drawn<T>(c.tokens * stride, "x"), y = x;
  Rotary<T> op;
  op.tokens = c.tokens, op.heads = c.heads, op.head_dim = c.head_dim, op.rotary_dim = c.rotary_dim;
  op.x_stride = op.y_stride = stride;
  op.pairs = c.pairs, op.inverse = c.inverse;
  op.positions = position.data(), op.cos = cos.data(), op.sin = sin.data();
  op.x = in_place ? y.data() : x.data();
  op.y = y.data();
  kernels.rotary(op);
  return {as_float(y)};
}

TEST_P(DecoderKernelsOfEveryIsa, Rotary) {
  for (const RotaryPairs pairs : {RotaryPairs::kHalves, RotaryPairs::kInterleaved}) {
    for (const bool inverse : {false, true}) {
      for (const RotaryCase& c : {RotaryCase{1, 1, 2, 2, pairs, inverse},
                                  {5, 3, 10, 6, pairs, inverse},
                                  {4, 2, 22, 22, pairs, inverse},
                                  {70, 8, 64, 64, pairs, inverse}}) {
        const Arrays expected = run_rotary(ref::decoder_kernels<float>(), c, false);
        const std::string what = std::to_string(c.head_dim);
        expect_close(run_rotary(public_kernels<float>(), c, false), expected, 1e-6, what);
        expect_close(run_rotary(public_kernels<float>(), c, true), expected, 1e-6, what + " in place");
        expect_close(run_rotary(public_kernels<Bfloat16>(), c, false), expected, 2e-2, what);
      }
    }
  }
}

template <typename T>
Arrays run_swiglu(const DecoderKernels<T>& kernels, int64_t rows, int64_t width) {
  // Gate and up as halves of one array, with a gap.
  const int64_t stride = 2 * width + 1;
  const std::vector<T> both = drawn<T>(rows * stride, "both"), dy = drawn<T>(rows * width, "dy");
  std::vector<T> y(dy.size()), d_both(both.size());
  const SwiGlu<T> op{rows, width, stride, stride, width, both.data(), both.data() + width, y.data()};
  kernels.swiglu(op);
  kernels.swiglu_backward({op, dy.data(), d_both.data(), d_both.data() + width});
  return {as_float(y), as_float(d_both)};
}

TEST_P(DecoderKernelsOfEveryIsa, SwiGlu) {
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {2, 64}, {33, 701}}) {
    const Arrays expected = run_swiglu(ref::decoder_kernels<float>(), rows, width);
    expect_close(run_swiglu(public_kernels<float>(), rows, width), expected, 3e-6, std::to_string(width));
    expect_close(run_swiglu(public_kernels<Bfloat16>(), rows, width), expected, 3e-2, std::to_string(width));
  }
}

template <typename T>
Arrays run_cross_entropy(const DecoderKernels<T>& kernels, int64_t rows, int64_t classes,
                         bool with_gradient) {
  std::vector<T> logits = drawn<T>(rows * classes, "logits");
  std::vector<int64_t> labels;
  for (int64_t row = 0; row < rows; ++row) labels.push_back((row * 5 + 1) % classes);
  std::vector<double> losses(static_cast<size_t>(rows));
  kernels.cross_entropy_rows({rows, classes, labels.data(), with_gradient, logits.data(), losses.data()});
  return {std::vector<float>(losses.begin(), losses.end()), as_float(logits)};
}

TEST_P(DecoderKernelsOfEveryIsa, CrossEntropyRows) {
  for (const auto& [rows, classes] :
       {std::pair<int64_t, int64_t>{1, 2}, {3, 3}, {4, 16}, {5, 21}, {7, 5003}}) {
    for (const bool with_gradient : {false, true}) {
      const Arrays expected = run_cross_entropy(ref::decoder_kernels<float>(), rows, classes, with_gradient);
      const std::string what = std::to_string(classes) + " classes";
      expect_close(run_cross_entropy(public_kernels<float>(), rows, classes, with_gradient), expected, 3e-6,
                   what);
      expect_close(run_cross_entropy(public_kernels<Bfloat16>(), rows, classes, with_gradient), expected,
                   2e-2, what);
    }
  }
}

TEST_P(DecoderKernelsOfEveryIsa, CrossEntropyOfExtremeLogits) {
  // The label's logit towers above all others, or below; nothing overflows.
  std::vector<float> logits = {500, -500, 0, -500, 500, 0};
  const std::vector<int64_t> labels = {0, 0};
  std::vector<double> losses(2);
  cross_entropy_rows<float>({2, 3, labels.data(), true, logits.data(), losses.data()});
  EXPECT_NEAR(losses[0], 0.0, 1e-6);
  EXPECT_NEAR(losses[1], 1000.0, 1e-3);
  EXPECT_NEAR(logits[3], -1.0f, 1e-6);
  EXPECT_NEAR(logits[4], 1.0f, 1e-6);
  std::vector<float> broken = {1, NAN, 2};
  cross_entropy_rows<float>({1, 3, labels.data(), false, broken.data(), losses.data()});
  EXPECT_TRUE(std::isnan(losses[0]));
}

TEST_P(DecoderKernelsOfEveryIsa, TheNumberOfThreadsChangesNothing) {
  const int threads = omp_get_max_threads();
  const auto run = [&](int count) {
    omp_set_num_threads(count);
    Arrays all = run_rms_norm(public_kernels<float>(), 90, 333, true);
    for (auto& array :
         run_rotary(public_kernels<float>(), {90, 4, 64, 64, RotaryPairs::kHalves, false}, false))
      all.push_back(array);
    for (auto& array : run_swiglu(public_kernels<float>(), 90, 333)) all.push_back(array);
    for (auto& array : run_cross_entropy(public_kernels<float>(), 90, 333, true)) all.push_back(array);
    return all;
  };
  const Arrays one = run(1), three = run(3);
  omp_set_num_threads(threads);
  EXPECT_EQ(one, three);
}

INSTANTIATE_TEST_SUITE_P(Isa, DecoderKernelsOfEveryIsa, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return to_string(info.param); });

// The gradient of `loss` in every element of `values` by central differences.
void expect_gradient(std::vector<double>& values, const std::vector<double>& gradient,
                     const std::function<double()>& loss, const std::string& what) {
  for (size_t i = 0; i < values.size(); ++i) {
    const double kept = values[i], step = 1e-6;
    values[i] = kept + step;
    const double up = loss();
    values[i] = kept - step;
    const double down = loss();
    values[i] = kept;
    ASSERT_NEAR(gradient[i], (up - down) / (2 * step), 1e-7) << what << ", element " << i;
  }
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

TEST(ReferenceDecoderKernels, RmsNormBackwardMatchesFiniteDifferences) {
  const int64_t rows = 3, width = 7, n = rows * width;
  std::vector<double> x = drawn<double>(n, "x"), residual = drawn<double>(n, "r");
  const std::vector<double> dy = drawn<double>(n, "dy"), d_s = drawn<double>(n, "ds");
  std::vector<double> gamma = drawn<double>(width, "gamma"), d_gamma(gamma.size());
  std::vector<float> inverse(3);
  std::vector<double> s(x.size()), y(x.size()), d_x(x.size());
  const auto loss = [&] {
    residual_rms_norm<double>(
        {rows, width, 1e-5, x.data(), residual.data(), gamma.data(), s.data(), y.data(), inverse.data()});
    return dot(y, dy) + dot(s, d_s);
  };
  loss();
  residual_rms_norm_backward<double>({rows, width, 1e-5, dy.data(), d_s.data(), s.data(), inverse.data(),
                                      gamma.data(), d_x.data(), d_gamma.data()});
  expect_gradient(x, d_x, loss, "x");
  expect_gradient(residual, d_x, loss, "residual");
  for (size_t i = 0; i < gamma.size(); ++i) {  // y is linear in gamma, so a long step is exact
    const double kept = gamma[i];
    gamma[i] = kept + 0.5;
    const double up = loss();
    gamma[i] = kept - 0.5;
    const double down = loss();
    gamma[i] = kept;
    EXPECT_NEAR(d_gamma[i], up - down, 1e-12);
  }
}

TEST(ReferenceDecoderKernels, RotaryBackwardMatchesFiniteDifferencesAndKeepsLengths) {
  const int64_t tokens = 3, heads = 2, dim = 6, n = tokens * heads * dim;
  const std::vector<double> cos = {1, 1, 0.6, 0.8}, sin = {0, 0, 0.8, 0.6};
  const std::vector<int32_t> positions = {0, 1, 1};
  for (const RotaryPairs pairs : {RotaryPairs::kHalves, RotaryPairs::kInterleaved}) {
    std::vector<double> x = drawn<double>(n, "x"), y(x.size()), d_x(x.size());
    const std::vector<double> dy = drawn<double>(n, "dy");
    Rotary<double> op;
    op.tokens = tokens, op.heads = heads, op.head_dim = dim, op.rotary_dim = 4;
    op.x_stride = op.y_stride = heads * dim;
    op.pairs = pairs;
    op.positions = positions.data(), op.cos = cos.data(), op.sin = sin.data();
    op.x = x.data(), op.y = y.data();
    const auto loss = [&] {
      rotary<double>(op);
      return dot(y, dy);
    };
    loss();
    EXPECT_NEAR(dot(y, y), dot(x, x), 1e-12);
    Rotary<double> back = op;
    back.inverse = true;
    back.x = dy.data();
    back.y = d_x.data();
    rotary<double>(back);
    expect_gradient(x, d_x, loss, "x");
  }
}

TEST(ReferenceDecoderKernels, RotaryPairsAreTheNamedOnes) {
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

TEST(ReferenceDecoderKernels, SwiGluBackwardMatchesFiniteDifferences) {
  const int64_t rows = 2, width = 5, n = rows * width;
  std::vector<double> gate = drawn<double>(n, "gate"), up = drawn<double>(n, "up"), y(gate.size());
  const std::vector<double> dy = drawn<double>(n, "dy");
  std::vector<double> d_gate(gate.size()), d_up(gate.size());
  const SwiGlu<double> op{rows, width, width, width, width, gate.data(), up.data(), y.data()};
  const auto loss = [&] {
    swiglu<double>(op);
    return dot(y, dy);
  };
  swiglu_backward<double>({op, dy.data(), d_gate.data(), d_up.data()});
  expect_gradient(gate, d_gate, loss, "gate");
  expect_gradient(up, d_up, loss, "up");
}

TEST(ReferenceDecoderKernels, CrossEntropyGradientMatchesFiniteDifferences) {
  const int64_t rows = 3, classes = 6;
  std::vector<double> logits = drawn<double>(rows * classes, "logits"), gradient = logits;
  const std::vector<int64_t> labels = {5, 0, 2};
  std::vector<double> losses(3);
  cross_entropy_rows<double>({rows, classes, labels.data(), true, gradient.data(), losses.data()});
  const auto loss = [&] {
    cross_entropy_rows<double>({rows, classes, labels.data(), false, logits.data(), losses.data()});
    return losses[0] + losses[1] + losses[2];
  };
  expect_gradient(logits, gradient, loss, "logits");
}

}  // namespace
}  // namespace msplora::kernels
