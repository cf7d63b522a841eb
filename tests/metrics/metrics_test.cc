#include "msplora/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ConfusionMatrix binary(int64_t tp, int64_t tn, int64_t fp, int64_t fn) {
  ConfusionMatrix matrix(2);
  matrix.add(1, 1, tp);
  matrix.add(0, 0, tn);
  matrix.add(1, 0, fp);
  matrix.add(0, 1, fn);
  return matrix;
}

TEST(ConfusionMatrix, BinaryTextbookFormulas) {
  // Worked example: TP 6, TN 3, FP 1, FN 2; MCC = (6*3 - 1*2) / sqrt(7*8*4*5) = 16 / sqrt(1120).
  const ConfusionMatrix matrix = binary(6, 3, 1, 2);
  EXPECT_DOUBLE_EQ(matrix.accuracy(), 9.0 / 12.0);
  EXPECT_DOUBLE_EQ(matrix.f1(1), 12.0 / 15.0);  // 2 TP / (2 TP + FP + FN)
  EXPECT_DOUBLE_EQ(matrix.f1(0), 6.0 / 9.0);
  EXPECT_NEAR(matrix.matthews(), 16.0 / std::sqrt(1120.0), 1e-15);
  RandomStream random(5);
  for (int trial = 0; trial < 200; ++trial) {
    const auto draw = [&random] { return static_cast<int64_t>(1 + random.below(50)); };
    const int64_t tp = draw(), tn = draw(), fp = draw(), fn = draw();
    const double expected = static_cast<double>(tp * tn - fp * fn) /
                            std::sqrt(static_cast<double>((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)));
    EXPECT_NEAR(binary(tp, tn, fp, fn).matthews(), expected, 1e-12);
  }
}

TEST(ConfusionMatrix, SeveralClassesByHand) {
  // Targets a a a b b c, predictions a a b b c c: s=6, c=4, t=(3,2,1), p=(2,2,2).
  ConfusionMatrix matrix(3);
  const int64_t targets[] = {0, 0, 0, 1, 1, 2}, predictions[] = {0, 0, 1, 1, 2, 2};
  for (int i = 0; i < 6; ++i) matrix.add(predictions[i], targets[i]);
  EXPECT_DOUBLE_EQ(matrix.accuracy(), 4.0 / 6.0);
  EXPECT_NEAR(matrix.macro_f1(), (4.0 / 5 + 2.0 / 4 + 2.0 / 3) / 3, 1e-15);
  EXPECT_NEAR(matrix.matthews(), 12.0 / std::sqrt(24.0 * 22.0), 1e-15);  // (4*6-12)/sqrt((36-12)(36-14))
}

TEST(ConfusionMatrix, DegenerateCases) {
  EXPECT_EQ(binary(5, 0, 3, 0).matthews(), 0.0);  // everything predicted positive
  EXPECT_EQ(binary(5, 0, 0, 3).matthews(), 0.0);  // all targets positive
  EXPECT_EQ(binary(5, 0, 0, 0).matthews(), 0.0);
  EXPECT_EQ(binary(0, 5, 0, 0).f1(1), 0.0);
  EXPECT_DOUBLE_EQ(binary(5, 5, 0, 0).matthews(), 1.0);
  EXPECT_DOUBLE_EQ(binary(0, 0, 5, 5).matthews(), -1.0);
  ConfusionMatrix absent(4);  // class 3 occurs nowhere and does not count
  absent.add(0, 0);
  absent.add(1, 1);
  absent.add(2, 1);
  EXPECT_NEAR(absent.macro_f1(), (1.0 + 2.0 / 3 + 0.0) / 3, 1e-15);
  EXPECT_THROW(absent.add(4, 0), Error);
  EXPECT_THROW(absent.add(0, -1), Error);
  EXPECT_NEAR(binary(3'000'000'000, 3'000'000'000, 1'000'000'000, 1'000'000'000).matthews(), 0.5, 1e-12);
}

TEST(CoMoments, PearsonByHandAndStable) {
  // x 1 2 3 4 5, y 2 1 4 3 7: sxy = 12, sxx = 10, syy = 21.2.
  CoMoments moments, shifted;
  const double x[] = {1, 2, 3, 4, 5}, y[] = {2, 1, 4, 3, 7};
  for (int i = 0; i < 5; ++i) {
    moments.add(x[i], y[i]);
    shifted.add(x[i] * 1e-3 + 1e8, y[i] * 1e-3 - 1e8);  // cancellation would destroy a sum-of-squares formula
  }
  EXPECT_NEAR(moments.correlation(), 12.0 / std::sqrt(212.0), 1e-15);
  EXPECT_NEAR(shifted.correlation(), 12.0 / std::sqrt(212.0), 1e-4);
  CoMoments constant;
  constant.add(0.1, 1);
  constant.add(0.1, 2);
  constant.add(0.1, 3);
  EXPECT_EQ(constant.correlation(), 0.0);
  EXPECT_EQ(CoMoments().correlation(), 0.0);
}

TEST(CoMoments, MergingEqualsStreaming) {
  RandomStream random(11);
  CoMoments whole, parts[3];
  for (int i = 0; i < 1000; ++i) {
    const double a = random.normal(), b = 0.3 * a + random.normal();
    whole.add(a, b);
    parts[i % 7 == 0 ? 0 : 1].add(a, b);
  }
  parts[2].merge(parts[0]);  // into an empty one
  parts[2].merge(parts[1]);
  parts[2].merge(CoMoments());
  EXPECT_EQ(parts[2].count(), 1000);
  EXPECT_NEAR(parts[2].correlation(), whole.correlation(), 1e-13);
}

TEST(Spearman, RanksShareTies) {
  EXPECT_THAT(average_ranks({10, 20, 20, 5, 20}), ElementsAre(2, 4, 4, 1, 4));
  // Without ties 1 - 6 sum d^2 / (n (n^2 - 1)): d = 1 1 1 1 0 -> 1 - 24/120.
  EXPECT_NEAR(spearman_correlation({1, 2, 3, 4, 5}, {20, 10, 40, 30, 70}), 0.8, 1e-15);
  // Ranks 1 2.5 2.5 4 and 1 3 2 4: sxy = 4.5, sxx = 4.5, syy = 5.
  EXPECT_NEAR(spearman_correlation({1, 2, 2, 3}, {1, 3, 2, 4}), 4.5 / std::sqrt(22.5), 1e-15);
  EXPECT_NEAR(spearman_correlation({1, 2, 3}, {1, 100, 1e6f}), 1.0, 1e-15);
  EXPECT_EQ(spearman_correlation({1, 1, 1}, {1, 2, 3}), 0.0);
  EXPECT_THROW(spearman_correlation({1}, {1, 2}), Error);
}

TEST(MetricSet, ClassificationAndLoss) {
  MetricSet set = MetricSet::create({"accuracy", "f1", "matthews", "loss", "perplexity"}, 2);
  for (int i = 0; i < 12; ++i) set.update_class(i < 7, i < 6 || i >= 10);  // TP 6, FP 1, TN 3, FN 2
  set.update_loss(6.0, 8);
  set.update_loss(3.0, 4);
  const auto values = set.compute();
  EXPECT_DOUBLE_EQ(values.at("accuracy"), 0.75);
  EXPECT_DOUBLE_EQ(values.at("f1"), 0.8);
  EXPECT_NEAR(values.at("matthews"), 16.0 / std::sqrt(1120.0), 1e-15);
  EXPECT_DOUBLE_EQ(values.at("loss"), 0.75);
  EXPECT_DOUBLE_EQ(values.at("perplexity"), std::exp(0.75));

  MetricSet many = MetricSet::create({"f1"}, 3);
  const int64_t targets[] = {0, 0, 0, 1, 1, 2}, predictions[] = {0, 0, 1, 1, 2, 2};
  for (int i = 0; i < 6; ++i) many.update_class(predictions[i], targets[i]);
  EXPECT_NEAR(many.compute().at("f1"), (4.0 / 5 + 2.0 / 4 + 2.0 / 3) / 3, 1e-15);
}

TEST(MetricSet, RegressionAndMerge) {
  const std::vector<std::string> names = {"pearson", "spearman", "mse", "mae"};
  MetricSet whole = MetricSet::create(names, 1), left = MetricSet::create(names, 1),
            right = MetricSet::create(names, 1);
  const double x[] = {1, 2, 3, 4, 5}, y[] = {2, 1, 4, 3, 7};
  for (int i = 0; i < 5; ++i) {
    whole.update_value(x[i], y[i]);
    (i < 2 ? left : right).update_value(x[i], y[i]);
  }
  const auto values = whole.compute();
  EXPECT_NEAR(values.at("pearson"), 12.0 / std::sqrt(212.0), 1e-15);
  EXPECT_NEAR(values.at("spearman"), 0.8, 1e-15);
  EXPECT_DOUBLE_EQ(values.at("mse"), 8.0 / 5);
  EXPECT_DOUBLE_EQ(values.at("mae"), 6.0 / 5);
  left.merge(right);
  for (const auto& [name, value] : left.compute()) EXPECT_NEAR(value, values.at(name), 1e-15) << name;
  EXPECT_THROW(left.merge(MetricSet::create({"mse"}, 1)), Error);
}

TEST(ConfusionMatrix, PrecisionAndRecallByHand) {
  ConfusionMatrix matrix(4);
  const std::vector<int64_t> targets = {0, 0, 0, 1, 1, 2, 2, 2, 2}, predictions = {0, 0, 1, 1, 2, 2, 2, 2, 0};
  for (size_t i = 0; i < targets.size(); ++i) matrix.add(predictions[i], targets[i]);
  EXPECT_DOUBLE_EQ(matrix.precision(0), 2.0 / 3);
  EXPECT_DOUBLE_EQ(matrix.recall(0), 2.0 / 3);
  EXPECT_DOUBLE_EQ(matrix.precision(1), 0.5);
  EXPECT_DOUBLE_EQ(matrix.recall(1), 0.5);
  EXPECT_DOUBLE_EQ(matrix.precision(2), 0.75);
  EXPECT_DOUBLE_EQ(matrix.recall(2), 0.75);
  EXPECT_EQ(matrix.support(2), 4);
  EXPECT_EQ(matrix.predicted(1), 2);
  EXPECT_EQ(matrix.precision(3), 0.0);  // never predicted, no examples
  EXPECT_EQ(matrix.recall(3), 0.0);
}

// Three equal texts, whose predictions differ in the last bits alone, against targets that do not.
TEST(MetricSet, PredictionsEqualToRoundingHaveNoCorrelation) {
  const auto correlations = [](const std::vector<double>& predictions, const std::vector<double>& targets,
                               double rounding = kFloat32Rounding) {
    MetricSet metrics = MetricSet::create({"pearson", "spearman"}, 1, rounding);
    for (size_t i = 0; i < targets.size(); ++i) metrics.update_value(predictions[i], targets[i]);
    return metrics.compute();
  };
  const float value = 0.3141f, next = std::nextafter(value, 1.0f);
  const auto equal = correlations({next, value, value}, {1.0, 2.0, 3.0});
  EXPECT_EQ(equal.at("pearson"), 0.0);
  EXPECT_EQ(equal.at("spearman"), 0.0);
  const auto near_zero = correlations({1e-9, 0, 3e-9}, {1.0, 2.0, 3.0});
  EXPECT_EQ(near_zero.at("pearson"), 0.0);
  EXPECT_NEAR(correlations({1e-9, 2e-9, 3e-9}, {1e-9, 2e-9, 3e-9}).at("pearson"), 1.0, 1e-12);
  EXPECT_NEAR(correlations({0.3141, 0.3142, 0.3143}, {1.0, 2.0, 3.0}).at("pearson"), 1.0, 1e-6);
  EXPECT_EQ(correlations({0.3141, 0.3142, 0.3143}, {1.0, 2.0, 3.0}, kBFloat16Rounding).at("spearman"), 0.0);
}

TEST(MetricSet, RefusesWhatMakesNoSense) {
  try {
    MetricSet::create({"acuracy", "pearson"}, 2);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean `accuracy`?"));
    EXPECT_THAT(error.what(), HasSubstr("`pearson` needs a regression"));
  }
  EXPECT_THROW(MetricSet::create({"accuracy"}, 1), Error);
  EXPECT_THROW(MetricSet::create({"loss"}, -1), Error);
  EXPECT_THROW(MetricSet::create({"f1"}, 0), Error);
  EXPECT_THROW(MetricSet::create({"mse"}, 0), Error);
  MetricSet set = MetricSet::create({"mse", "loss"}, 1);
  EXPECT_THROW(set.compute(), Error);
  EXPECT_THROW(set.update_value(std::nan(""), 1), Error);
  EXPECT_THROW(set.update_value(1, std::numeric_limits<double>::infinity()), Error);
  EXPECT_THROW(set.update_loss(std::nan(""), 1), Error);
  EXPECT_TRUE(metric_greater_is_better("matthews"));
  EXPECT_FALSE(metric_greater_is_better("perplexity"));
  EXPECT_THROW(metric_greater_is_better("speed"), Error);
  for (const int64_t labels : {1, 2, 5}) EXPECT_NO_THROW(MetricSet::create(metrics_for(labels), labels));
  EXPECT_EQ(metric_names().size(), 9u);
}

}  // namespace
}  // namespace msplora
