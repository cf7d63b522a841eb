#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/kernel_helpers.h"
#include "kernels/reference.h"
#include "msplora/core/random.h"
#include "msplora/kernels/kernels.h"

namespace msplora::kernels {
namespace {

class NoiseOfEveryIsa : public KernelsOfEveryIsa {
 protected:
  /// Noise of deviation 1 on a matrix of zeros.
  static std::vector<float> normals(int64_t rows, int64_t width, uint64_t key) {
    std::vector<float> w(static_cast<size_t>(rows * width)), y(w.size());
    const std::vector<float> deviations(static_cast<size_t>(rows), 1.0f);
    add_row_noise<float>({rows, width, key, deviations.data(), w.data(), y.data()});
    return y;
  }
};

TEST_P(NoiseOfEveryIsa, NumbersAreTheDefinedOnes) {
  for (const int64_t width : {1, 5, 16, 63, 64, 65, 200}) {
    const int64_t rows = 3;
    const uint64_t key = 0xFEDCBA9876543210ull + static_cast<uint64_t>(width);
    const std::vector<float> got = normals(rows, width, key);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < width; ++i)
        ASSERT_NEAR(got[static_cast<size_t>(row * width + i)], ref::normal(key, row, i), 4e-6)
            << row << " " << i << " of " << width;
    }
  }
}

template <typename T>
void expect_twins_agree(double tolerance) {
  const int64_t rows = 7, width = 77;
  RandomStream random(3, "weights");
  std::vector<float> exact;
  std::vector<T> w, y(static_cast<size_t>(rows * width));
  std::vector<float> deviations;
  for (int64_t i = 0; i < rows; ++i) deviations.push_back(0.01f * static_cast<float>(i));
  for (int64_t i = 0; i < rows * width; ++i) {
    const auto value = static_cast<float>(random.normal());
    if constexpr (std::is_same_v<T, float>) {
      w.push_back(value);
    } else {
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      w.push_back({static_cast<uint16_t>(bits >> 16)});
    }
    exact.push_back(to_float(w.back()));
  }
  std::vector<float> expected(exact.size());
  ref::float_table().add_row_noise({rows, width, 9, deviations.data(), exact.data(), expected.data()});
  add_row_noise<T>({rows, width, 9, deviations.data(), w.data(), y.data()});
  for (size_t i = 0; i < y.size(); ++i)
    ASSERT_NEAR(to_float(y[i]), expected[i], tolerance * std::max(1.0f, std::abs(expected[i]))) << i;
  add_row_noise<T>({rows, width, 9, deviations.data(), w.data(), w.data()});
  for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(to_float(w[i]), to_float(y[i])) << "in place, " << i;
}

TEST_P(NoiseOfEveryIsa, AddsToTheWeightAsThePlainTwinDoes) {
  expect_twins_agree<float>(1e-6);
  expect_twins_agree<Bfloat16>(0.0041);
}

TEST_P(NoiseOfEveryIsa, DoesNotDependOnTheNumberOfThreads) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const std::vector<float> one = normals(100, 300, 5);
  omp_set_num_threads(3);
  const std::vector<float> many = normals(100, 300, 5);
  omp_set_num_threads(threads);
  EXPECT_EQ(one, many);
}

TEST_P(NoiseOfEveryIsa, IsStandardNormalAndIndependent) {
  const int64_t rows = 256, width = 4096;
  const std::vector<float> numbers = normals(rows, width, 77);
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
  const std::vector<float> others = normals(rows, width, 78);
  double between = 0;
  for (size_t i = 0; i < numbers.size(); ++i) between += numbers[i] * static_cast<double>(others[i]) / n;
  EXPECT_NEAR(between, 0.0, error);
}

INSTANTIATE_TEST_SUITE_P(Isa, NoiseOfEveryIsa, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return to_string(info.param); });

}  // namespace
}  // namespace msplora::kernels
