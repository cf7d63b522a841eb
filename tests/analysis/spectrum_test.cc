#include "analysis/spectrum.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "analysis/matrices.h"
#include "analysis/row_matrix.h"

namespace msplora::analysis {
namespace {

using msplora::detail::LowRank;
using namespace testing;

/// Values, vectors and numbers of a product of factors against a dense decomposition of the product.
void expect_as_dense(const LowRank& factors, double tolerance, const std::string& what) {
  SCOPED_TRACE(what);
  const at::Tensor product = at::mm(factors.up, factors.down);
  const int64_t out = product.size(0), in = product.size(1);
  const Directions found = directions_of(factors, out, in);
  const std::vector<double> dense = dense_values(product);
  const double first = dense.front();
  for (size_t i = 0; i < dense.size(); ++i) {
    const double value =
        i < static_cast<size_t>(found.count()) ? found.values[static_cast<int64_t>(i)].item<double>() : 0.0;
    EXPECT_NEAR(value, dense[i], tolerance * first) << i;
  }
  const at::Tensor back = at::mm(found.left * found.values, found.right.t());
  EXPECT_LT((back - product).abs().max().item<double>(), tolerance * first);
  const at::Tensor unit = at::eye(found.count(), at::kDouble);
  EXPECT_LT((at::mm(found.left.t(), found.left) - unit).abs().max().item<double>(), 1e-10);
  EXPECT_LT((at::mm(found.right.t(), found.right) - unit).abs().max().item<double>(), 1e-10);
  EXPECT_NEAR(found.norm, product.norm().item<double>(), tolerance * first);
}

TEST(Spectrum, ThinQrGivesWhatADenseDecompositionGives) {
  struct Shape {
    int64_t out, in, rank;
  };
  for (const Shape& s :
       {Shape{40, 24, 5}, Shape{24, 40, 5}, Shape{12, 9, 20}, Shape{9, 12, 9}, Shape{31, 7, 1}}) {
    const LowRank factors{normal_matrix(s.out, s.rank, "up"), normal_matrix(s.rank, s.in, "down")};
    const std::string what =
        std::to_string(s.out) + "x" + std::to_string(s.in) + " of " + std::to_string(s.rank);
    expect_as_dense(factors, 1e-10, what);
    // Files hold float32; the analysis is of the numbers that they hold.
    expect_as_dense({factors.up.to(at::kFloat).to(at::kDouble), factors.down.to(at::kFloat).to(at::kDouble)},
                    1e-10, what + " from float32");
  }
}

TEST(Spectrum, EqualLevelsAddUpToOneOfTwiceTheSize) {
  const at::Tensor up = normal_matrix(20, 3, "up"), down = normal_matrix(3, 15, "down");
  const Directions one = directions_of({up, down}, 20, 15);
  const Directions both = directions_of({at::cat({up, up}, 1), at::cat({down, down}, 0)}, 20, 15);
  ASSERT_EQ(both.count(), 3) << "the other three are noise";
  EXPECT_LT((both.values - 2.0 * one.values).abs().max().item<double>(),
            1e-10 * one.values[0].item<double>());
}

TEST(Spectrum, AnUpdateOfZerosHasNoDirections) {
  const Directions none =
      directions_of({at::zeros({20, 4}, at::kDouble), normal_matrix(4, 10, "down")}, 20, 10);
  EXPECT_EQ(none.count(), 0);
  const Spectrum spectrum = spectrum_of(none);
  EXPECT_TRUE(spectrum.values.empty());
  EXPECT_EQ(spectrum.stable_rank, 0.0);
  EXPECT_EQ(spectrum.effective_rank, 0.0);
  EXPECT_EQ(spectrum.rank_99, 0);
  EXPECT_EQ(spectrum.norm, 0.0);
}

TEST(Spectrum, NumbersOfThreeAndFour) {
  const Spectrum found = spectrum_of(directions_of(at::diag(at::tensor({3.0, 4.0}, at::kDouble))));
  ASSERT_EQ(found.values.size(), 2u);
  EXPECT_NEAR(found.values[0], 4.0, 1e-14);
  EXPECT_NEAR(found.norm, 5.0, 1e-14);
  EXPECT_NEAR(found.stable_rank, 1.5625, 1e-12);
  EXPECT_NEAR(*found.effective_rank, 1.9796, 5e-5);
  EXPECT_NEAR(*found.participation, 1.8546, 5e-5);
  EXPECT_EQ(found.rank_90, 2);  // 16 of 25 is less than 90 %
  EXPECT_EQ(found.rank_99, 2);
}

TEST(Spectrum, RanksHoldTheirShareOfTheEnergy) {
  // Energies 90, 9, 1 of a hundred.
  const at::Tensor values = at::tensor({std::sqrt(90.0), 3.0, 1.0}, at::kDouble);
  const Spectrum found = spectrum_of(directions_of(at::diag(values)));
  EXPECT_EQ(found.rank_90, 1);
  EXPECT_EQ(found.rank_99, 2);
}

TEST(Spectrum, MeasuresOfRankKeepTheirOrder) {
  for (const int64_t rank : {1, 2, 5, 9}) {
    const Spectrum s =
        spectrum_of(directions_of({normal_matrix(30, rank, "up"), normal_matrix(rank, 20, "down")}, 30, 20));
    EXPECT_GE(s.stable_rank, 1.0 - 1e-12);
    EXPECT_LE(s.stable_rank, *s.participation + 1e-12);
    EXPECT_LE(*s.participation, static_cast<double>(rank) + 1e-12);
    EXPECT_LE(*s.effective_rank, static_cast<double>(rank) + 1e-12);
  }
}

TEST(Spectrum, OtherFactorsOfTheSameUpdateChangeNothing) {
  const at::Tensor up = normal_matrix(25, 4, "up"), down = normal_matrix(4, 18, "down");
  const at::Tensor g = normal_matrix(4, 4, "g") + 4.0 * at::eye(4, at::kDouble);
  const Directions plain = directions_of({up, down}, 25, 18);
  for (const LowRank& other :
       {LowRank{up * 1e6, down * 1e-6}, LowRank{at::mm(up, g), at::mm(g.inverse(), down)}}) {
    const Directions same = directions_of(other, 25, 18);
    EXPECT_LT((same.values - plain.values).abs().max().item<double>(),
              1e-10 * plain.values[0].item<double>());
    EXPECT_LT(
        (at::mm(same.left, same.left.t()) - at::mm(plain.left, plain.left.t())).abs().max().item<double>(),
        1e-9);
  }
}

TEST(Spectrum, SubspaceIterationFindsTheLeadingDirections) {
  const at::Tensor matrix = normal_matrix(70, 50, "matrix");
  const RowMatrix rows{70, 50, [&](int64_t begin, int64_t end) { return matrix.slice(0, begin, end); }};
  const std::vector<double> dense = dense_values(matrix);
  const Directions found = leading_directions(rows, 6);
  ASSERT_EQ(found.count(), 6);
  EXPECT_TRUE(found.is_leading);
  for (int64_t i = 0; i < 6; ++i)
    EXPECT_NEAR(found.values[i].item<double>(), dense[static_cast<size_t>(i)], 1e-9 * dense[0]);
  EXPECT_NEAR(found.norm, matrix.norm().item<double>(), 1e-10);
  const Spectrum spectrum = spectrum_of(found);
  EXPECT_FALSE(spectrum.effective_rank) << "not known from some of the values";
  EXPECT_GT(spectrum.stable_rank, 1.0);
}

}  // namespace
}  // namespace msplora::analysis
