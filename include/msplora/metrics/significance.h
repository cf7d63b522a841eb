#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "msplora/metrics/metrics.h"

/// Is a difference between two ways of training more than luck?
namespace msplora {

struct Interval {
  double low = 0.0, high = 0.0;
};

/// Of one value or more, and of two or more.
double mean_of(const std::vector<double>& values);
double sample_deviation(const std::vector<double>& values);

/// Student's t with `degrees` degrees of freedom: P(|T| > |t|), exact (Abramowitz and Stegun, 26.7.3 and
/// 26.7.4). Throws Error{kUsage} below one degree.
double two_sided_p(double t, int64_t degrees);
/// The t with two_sided_p(t) = p, 0 < p < 1.
double two_sided_t(double p, int64_t degrees);

/// The paired t-test: differences a[i] - b[i] come from one normal distribution; is its mean 0?
struct PairedTest {
  int64_t pairs = 0;
  double difference = 0.0;           // mean of a - b
  double deviation = 0.0;            // of the differences (sample standard deviation)
  std::optional<double> p;           // two-sided; unset below two pairs
  std::optional<Interval> interval;  // of the mean, at `confidence`
};
/// Throws Error{kUsage} when the two are not of one length.
PairedTest paired_t_test(const std::vector<double>& a, const std::vector<double>& b,
                         double confidence = 0.95);

/// P-values of several tests of one question, each the least level at which Holm's procedure rejects it (Holm
/// 1979), in the order given.
std::vector<double> holm_adjusted(const std::vector<double>& p);

/// The percentile interval of metric(a) - metric(b), means over runs, when both the runs and the examples are
/// drawn anew with replacement: a[i] and b[i] are two runs with the same seed, all over the same examples in
/// the same order. `classes`: of the task; some of them may be in no pair. Unset where the runs do not pair
/// up or the metric knows no pairs (losses). The same arguments give the same interval.
std::optional<Interval> bootstrap_difference(const std::vector<std::vector<MetricPair>>& a,
                                             const std::vector<std::vector<MetricPair>>& b,
                                             const std::string& metric, int64_t draws = 1000,
                                             int64_t classes = 0, double confidence = 0.95);

}  // namespace msplora
