#include "msplora/metrics/significance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "error_text.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Expected values of t are SciPy's (stats.t.sf, stats.t.isf, stats.ttest_rel).
TEST(Significance, StudentsT) {
  EXPECT_NEAR(two_sided_p(2.0, 1), 0.2951672353008665, 1e-14);
  EXPECT_NEAR(two_sided_p(2.0, 2), 0.18350341907227397, 1e-14);
  EXPECT_NEAR(two_sided_p(2.776445105, 4), 0.05000000001011946, 1e-14);
  EXPECT_NEAR(two_sided_p(0.5, 7), 0.6324071356892844, 1e-14);
  EXPECT_NEAR(two_sided_p(-3.3, 10), 0.008013498113698335, 1e-14);
  EXPECT_NEAR(two_sided_p(12.7, 3), 0.0010530526821985991, 1e-14);
  EXPECT_EQ(two_sided_p(INFINITY, 3), 0.0);
  EXPECT_EQ(two_sided_p(0.0, 3), 1.0);
  EXPECT_NEAR(two_sided_t(0.05, 1), 12.706204736174705, 1e-10);
  EXPECT_NEAR(two_sided_t(0.05, 2), 4.302652729749464, 1e-10);
  EXPECT_NEAR(two_sided_t(0.05, 4), 2.7764451051977943, 1e-10);
  EXPECT_NEAR(two_sided_t(0.01, 9), 3.2498355415921263, 1e-10);
  EXPECT_THAT(error_text([] { two_sided_p(1.0, 0); }), HasSubstr("degree of freedom"));
}

TEST(Significance, PairedTTest) {
  const PairedTest test =
      paired_t_test({0.694, 0.701, 0.689, 0.71, 0.697}, {0.683, 0.699, 0.691, 0.694, 0.688});
  EXPECT_EQ(test.pairs, 5);
  EXPECT_NEAR(test.difference, 0.0072, 1e-15);
  EXPECT_NEAR(test.deviation, 0.007190271204899012, 1e-15);
  EXPECT_NEAR(test.p.value(), 0.08871108737829358, 1e-13);
  EXPECT_NEAR(test.interval.value().low, -0.001727900892444319, 1e-14);
  EXPECT_NEAR(test.interval.value().high, 0.016127900892444286, 1e-14);
}

TEST(Significance, PairedTTestOfFewOrEqualScores) {
  EXPECT_FALSE(paired_t_test({}, {}).p);
  const PairedTest one = paired_t_test({0.75}, {0.5});
  EXPECT_EQ(one.difference, 0.25);
  EXPECT_FALSE(one.p || one.interval);
  EXPECT_EQ(paired_t_test({1, 2}, {1, 2}).p, 1.0);
  EXPECT_EQ(paired_t_test({2, 3}, {1, 2}).p, 0.0);
  EXPECT_THAT(error_text([] { paired_t_test({1.0}, {}); }), HasSubstr("cannot be paired"));
}

TEST(Significance, HolmsProcedure) {
  EXPECT_THAT(holm_adjusted({0.01, 0.04, 0.03, 0.005}),
              ElementsAre(DoubleNear(0.03, 1e-15), DoubleNear(0.06, 1e-15), DoubleNear(0.06, 1e-15),
                          DoubleNear(0.02, 1e-15)));
  EXPECT_THAT(holm_adjusted({0.6, 0.7}), ElementsAre(1.0, 1.0));
  EXPECT_TRUE(holm_adjusted({}).empty());
}

/// `share` of the answers to 400 questions are right.
std::vector<MetricPair> answers(double share, uint64_t seed) {
  RandomStream random(seed, "answers");
  std::vector<MetricPair> pairs;
  for (int i = 0; i < 400; ++i) {
    const float target = i % 2 == 0 ? 1.0F : 0.0F;
    pairs.push_back({random.uniform() < share ? target : 1.0F - target, target});
  }
  return pairs;
}

TEST(Significance, BootstrapOfEqualRunsIsZero) {
  const std::vector<std::vector<MetricPair>> runs = {answers(0.8, 1), answers(0.7, 2)};
  for (const char* metric : {"accuracy", "f1", "matthews"}) {
    const auto interval = bootstrap_difference(runs, runs, metric, 200);
    ASSERT_TRUE(interval) << metric;
    EXPECT_EQ(interval->low, 0.0) << metric;
    EXPECT_EQ(interval->high, 0.0) << metric;
  }
}

/// A third class that nobody has seen makes F1 the mean over classes, not that of the second.
TEST(Significance, BootstrapKnowsClassesThatDoNotOccur) {
  const std::vector<MetricPair> a = answers(0.9, 1), b = answers(0.6, 2);
  const auto two = bootstrap_difference({a}, {b}, "f1", 200),
             three = bootstrap_difference({a}, {b}, "f1", 200, 3);
  EXPECT_NE(two->low, three->low);
  EXPECT_EQ(two->low, bootstrap_difference({a}, {b}, "f1", 200, 2)->low);
}

/// One run each: over examples alone the standard error of a difference of accuracies is
/// sqrt((disagreements - difference²) / n), McNemar's.
TEST(Significance, BootstrapHasTheStandardErrorOfPairedAccuracies) {
  const std::vector<MetricPair> a = answers(0.8, 1), b = answers(0.7, 2);
  double difference = 0.0, disagreements = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double one =
        (a[i].prediction == a[i].target ? 1.0 : 0.0) - (b[i].prediction == b[i].target ? 1.0 : 0.0);
    difference += one / 400.0;
    disagreements += one * one / 400.0;
  }
  const double error = std::sqrt((disagreements - difference * difference) / 400.0);
  const auto interval = bootstrap_difference({a}, {b}, "accuracy", 4000);
  ASSERT_TRUE(interval);
  EXPECT_NEAR((interval->low + interval->high) / 2, difference, 0.1 * error);
  EXPECT_NEAR((interval->high - interval->low) / 2, 1.96 * error, 0.1 * error);
  EXPECT_EQ(interval->low, bootstrap_difference({a}, {b}, "accuracy", 4000)->low);
}

TEST(Significance, BootstrapOfValues) {
  std::vector<MetricPair> near, far;
  RandomStream random(3, "values");
  for (int i = 0; i < 300; ++i) {
    const auto target = static_cast<float>(random.normal());
    near.push_back({target + 0.3F * static_cast<float>(random.normal()), target});
    far.push_back({target + 2.0F * static_cast<float>(random.normal()), target});
  }
  for (const char* metric : {"pearson", "spearman"}) {
    const auto interval = bootstrap_difference({near}, {far}, metric, 200);
    ASSERT_TRUE(interval) << metric;
    EXPECT_GT(interval->low, 0.2) << metric;
    EXPECT_LT(interval->high, 0.8) << metric;
  }
  EXPECT_LT(bootstrap_difference({near}, {far}, "mse", 200)->high, 0.0);
}

TEST(Significance, BootstrapNeedsRunsThatPairUp) {
  const auto a = answers(0.8, 1);
  EXPECT_FALSE(bootstrap_difference({}, {}, "accuracy"));
  EXPECT_FALSE(bootstrap_difference({a, a}, {a}, "accuracy"));
  EXPECT_FALSE(bootstrap_difference({{}}, {{}}, "accuracy"));
  EXPECT_FALSE(bootstrap_difference({a}, {{a.begin(), a.end() - 1}}, "accuracy"));
  EXPECT_FALSE(bootstrap_difference({a}, {a}, "loss"));
}

}  // namespace
}  // namespace msplora
