#include "analysis/subspaces.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "analysis/base_relation.h"
#include "analysis/matrices.h"

namespace msplora::analysis {
namespace {

using namespace testing;

at::Tensor unit_vectors(int64_t d, const std::vector<int64_t>& which) {
  at::Tensor basis = at::zeros({d, static_cast<int64_t>(which.size())}, at::kDouble);
  for (size_t i = 0; i < which.size(); ++i) basis[which[i]][static_cast<int64_t>(i)] = 1.0;
  return basis;
}

TEST(Subspaces, OverlapOfKnownSpaces) {
  const at::Tensor u = unit_vectors(5, {0, 1}), v = unit_vectors(5, {0, 2}), w = unit_vectors(5, {3, 4});
  EXPECT_NEAR(overlap(u, v).phi, 0.5, 1e-15);
  EXPECT_NEAR(overlap(u, u).phi, 1.0, 1e-15);
  EXPECT_EQ(overlap(u, w).phi, 0.0);
  EXPECT_TRUE(std::isnan(overlap(u, at::zeros({5, 0}, at::kDouble)).phi));
  const at::Tensor basis = random_basis(30, 6, "u");
  EXPECT_NEAR(overlap(basis, basis).phi, 1.0, 1e-12);
}

TEST(Subspaces, OverlapIsTheMeanOfSquaredCosines) {
  const at::Tensor u = random_basis(40, 5, "u"), v = random_basis(40, 3, "v");
  const std::vector<double> cosines = principal_cosines(u, v);
  ASSERT_EQ(cosines.size(), 3u);
  double sum = 0.0;
  for (const double cosine : cosines) sum += cosine * cosine;
  EXPECT_NEAR(overlap(u, v).phi, sum / 3.0, 1e-12);
  for (size_t i = 1; i < cosines.size(); ++i) EXPECT_GE(cosines[i - 1], cosines[i]);
}

TEST(Subspaces, RandomPairsLieOnTheRandomLine) {
  double sum = 0.0;
  for (int pair = 0; pair < 200; ++pair) {
    const std::string name = std::to_string(pair);
    sum += overlap(random_basis(768, 8, "u" + name), random_basis(768, 8, "v" + name)).phi;
  }
  EXPECT_NEAR(random_overlap(8, 8, 768), 0.0104, 5e-5);
  EXPECT_NEAR(sum / 200.0, random_overlap(8, 8, 768), 5e-4);
}

TEST(Subspaces, GridHoldsTheOverlapsOfLeadingParts) {
  const at::Tensor u = random_basis(20, 4, "u"), v = random_basis(20, 3, "v");
  const Grid grid = overlap_grid(u, v), line = random_overlap_grid(4, 3, 20);
  ASSERT_EQ(grid.rows, 4u);
  ASSERT_EQ(grid.columns, 3u);
  for (int64_t i = 1; i <= 4; ++i) {
    for (int64_t j = 1; j <= 3; ++j) {
      const Overlap expected = overlap(u.slice(1, 0, i), v.slice(1, 0, j));
      const auto row = static_cast<size_t>(i - 1), column = static_cast<size_t>(j - 1);
      EXPECT_NEAR(grid.at(row, column), expected.phi, 1e-12);
      EXPECT_NEAR(line.at(row, column), expected.random, 1e-15);
    }
  }
}

TEST(Subspaces, CommonShareOfEqualAndOrthogonalSpaces) {
  const at::Tensor basis = random_basis(60, 12, "all");
  const at::Tensor a = basis.slice(1, 0, 4), b = basis.slice(1, 4, 8), c = basis.slice(1, 8, 12);
  EXPECT_NEAR(common_share({a, a, a}), 1.0, 1e-12);
  EXPECT_NEAR(common_share({a, b, c}), 1.0 / 3.0, 1e-12);
  EXPECT_NEAR(common_share({a, a, b}), 2.0 / 3.0, 1e-12);
}

/// A weight with known directions, and what is added to it.
struct Weights {
  static constexpr int64_t kOut = 60, kIn = 50;
  at::Tensor left = random_basis(kOut, kIn, "left"), right = random_basis(kIn, kIn, "right");
  at::Tensor values = at::zeros({kIn}, at::kDouble);
  at::Tensor weight;

  Weights() {
    for (int64_t i = 0; i < kIn; ++i) values[i] = 5.0 - 0.08 * static_cast<double>(i);
    weight = at::mm(left * values, right.t());
  }
  /// c u vᵀ of the normed sums of `count` trailing directions.
  at::Tensor added(int64_t count, double scale) const {
    const at::Tensor u = left.slice(1, kIn - count).sum(1) / std::sqrt(static_cast<double>(count));
    const at::Tensor v = right.slice(1, kIn - count).sum(1) / std::sqrt(static_cast<double>(count));
    return at::outer(u, v) * (scale * 5.0);
  }
};

const std::vector<double> kThresholds = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};

struct Similarities {
  std::vector<double> found, dense;
  int64_t asked = 0;
};

Similarities similarities_of(const Weights& w, const at::Tensor& change) {
  Similarities result;
  const at::Tensor base = std::get<0>(at::linalg_svd(w.weight, false));
  const at::Tensor leading =
      std::get<0>(at::linalg_svd(w.weight + change, false)).slice(1, 0, 10).contiguous();
  result.found = intruder_similarities(
      leading, base.size(1),
      [&](int64_t count) {
        result.asked = count;
        return base.slice(1, 0, count);
      },
      kThresholds);
  const at::Tensor largest = std::get<0>(at::mm(base.t(), leading).abs().max(0)).contiguous();
  result.dense.assign(largest.data_ptr<double>(), largest.data_ptr<double>() + 10);
  return result;
}

TEST(Intruders, WithoutAChangeThereAreNone) {
  const Weights w;
  const Similarities found = similarities_of(w, at::zeros_like(w.weight));
  EXPECT_EQ(count_intruders(found.found, kThresholds), std::vector<int64_t>(9, 0));
  EXPECT_LT(found.asked, Weights::kIn) << "the leading vectors are enough";
}

TEST(Intruders, ASumOfNineTrailingDirectionsIsOne) {
  const Weights w;
  const Similarities found = similarities_of(w, w.added(9, 10.0));
  const std::vector<int64_t> counts = count_intruders(found.found, kThresholds);
  EXPECT_EQ(counts[4], 1);                               // below 0.5
  EXPECT_EQ(counts[2], 0) << "its cosines are a third";  // below 0.3
  EXPECT_EQ(counts[3], 1);
}

TEST(Intruders, ASingleDirectionOfTheBaseIsNone) {
  const Weights w;
  EXPECT_EQ(count_intruders(similarities_of(w, w.added(1, 10.0)).found, kThresholds)[8], 0);
}

TEST(Intruders, TheShortcutCountsAsTheDenseComparison) {
  const Weights w;
  for (const int64_t count : {1, 2, 3, 4, 9, 25}) {
    for (const double scale : {0.1, 0.9, 1.0, 10.0}) {
      const Similarities found =
          similarities_of(w, w.added(count, scale) + 0.3 * normal_matrix(60, 50, "noise"));
      EXPECT_EQ(count_intruders(found.found, kThresholds), count_intruders(found.dense, kThresholds))
          << count << " at " << scale;
    }
  }
}

}  // namespace
}  // namespace msplora::analysis
