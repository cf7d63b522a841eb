#include "msplora/metrics/significance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

/// P(|T| < t): finite sums in sin and cos of atan(t / sqrt(n)), one for odd and one for even n.
double within(double t, int64_t degrees) {
  const double theta = std::atan(std::abs(t) / std::sqrt(static_cast<double>(degrees)));
  const double cosine = std::cos(theta), square = cosine * cosine;
  const bool is_odd = degrees % 2 == 1;
  double term = is_odd ? cosine : 1.0, sum = 0.0;
  for (int64_t k = is_odd ? 1 : 0; k <= degrees - 2; k += 2) {
    sum += term;
    const double at = static_cast<double>(k);
    term *= square * (at + 1.0) / (at + 2.0);
  }
  sum *= std::sin(theta);
  return is_odd ? (theta + sum) * 2.0 / std::numbers::pi : sum;
}

bool have_one_size(const std::vector<std::vector<MetricPair>>& runs, size_t examples) {
  return std::all_of(runs.begin(), runs.end(), [&](const auto& run) { return run.size() == examples; });
}

/// How many there must be, from what occurs.
int64_t classes_of(const std::vector<std::vector<MetricPair>>& runs) {
  float largest = 1.0F;
  for (const auto& run : runs) {
    for (const MetricPair& pair : run) largest = std::max({largest, pair.prediction, pair.target});
  }
  return static_cast<int64_t>(largest) + 1;
}

/// Of one run, over the examples drawn.
class Resampled {
 public:
  Resampled(std::string metric, bool is_of_classes, int64_t classes)
      : metric_(std::move(metric)), is_of_classes_(is_of_classes), outputs_(is_of_classes ? classes : 1) {}

  double operator()(const std::vector<MetricPair>& run, const std::vector<size_t>& drawn) const {
    MetricSet metrics = MetricSet::create({metric_}, outputs_);
    for (const size_t i : drawn) {
      const MetricPair& pair = run[i];
      if (is_of_classes_) {
        metrics.update_class(std::lround(pair.prediction), std::lround(pair.target));
      } else {
        metrics.update_value(pair.prediction, pair.target);
      }
    }
    return metrics.compute().at(metric_);
  }

 private:
  std::string metric_;
  bool is_of_classes_;
  int64_t outputs_;
};

Interval percentiles(std::vector<double> values, double confidence) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], place - static_cast<double>(below));
  };
  return {at((1.0 - confidence) / 2), at((1.0 + confidence) / 2)};
}

}  // namespace

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double sample_deviation(const std::vector<double>& values) {
  const double mean = mean_of(values);
  double squares = 0.0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

double two_sided_p(double t, int64_t degrees) {
  if (degrees < 1) throw Error(ErrorCode::kUsage, "significance", "a t-test needs a degree of freedom");
  return std::isinf(t) ? 0.0 : std::clamp(1.0 - within(t, degrees), 0.0, 1.0);
}

double two_sided_t(double p, int64_t degrees) {
  double low = 0.0, high = 1.0;
  while (two_sided_p(high, degrees) > p) high *= 2.0;
  for (int step = 0; step < 200 && high - low > 1e-14 * high; ++step) {
    const double middle = (low + high) / 2;
    (two_sided_p(middle, degrees) > p ? low : high) = middle;
  }
  return high;
}

PairedTest paired_t_test(const std::vector<double>& a, const std::vector<double>& b, double confidence) {
  if (a.size() != b.size()) {
    throw Error(ErrorCode::kUsage, "significance",
                fmt::format("{} and {} scores cannot be paired", a.size(), b.size()));
  }
  PairedTest test;
  test.pairs = static_cast<int64_t>(a.size());
  if (a.empty()) return test;
  std::vector<double> differences;
  for (size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
  test.difference = mean_of(differences);
  if (test.pairs < 2) return test;
  test.deviation = sample_deviation(differences);
  const double error = test.deviation / std::sqrt(static_cast<double>(a.size()));
  if (error > 0) {
    test.p = two_sided_p(test.difference / error, test.pairs - 1);
  } else {
    test.p = test.difference == 0.0 ? 1.0 : 0.0;
  }
  const double reach = error * two_sided_t(1.0 - confidence, test.pairs - 1);
  test.interval = {test.difference - reach, test.difference + reach};
  return test;
}

std::vector<double> holm_adjusted(const std::vector<double>& p) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] < p[b]; });
  std::vector<double> adjusted(p.size());
  double largest = 0.0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    largest = std::max(largest, std::min(1.0, p[order[rank]] * static_cast<double>(p.size() - rank)));
    adjusted[order[rank]] = largest;
  }
  return adjusted;
}

std::optional<Interval> bootstrap_difference(const std::vector<std::vector<MetricPair>>& a,
                                             const std::vector<std::vector<MetricPair>>& b,
                                             const std::string& metric, int64_t draws, int64_t classes,
                                             double confidence) {
  if (a.empty() || a.size() != b.size() || a.front().empty()) return std::nullopt;
  const size_t examples = a.front().size();
  if (!have_one_size(a, examples) || !have_one_size(b, examples)) return std::nullopt;
  const std::vector<std::string> of_classes = metrics_for(2), of_values = metrics_for(1);
  const auto is_among = [&](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), metric) != names.end();
  };
  if (!is_among(of_classes) && !is_among(of_values) && metric != "mae") return std::nullopt;
  const Resampled resampled(metric, is_among(of_classes), std::max({classes, classes_of(a), classes_of(b)}));
  RandomStream random(0, "bootstrap." + metric);
  std::vector<double> differences;
  std::vector<size_t> drawn(examples);
  for (int64_t draw = 0; draw < draws; ++draw) {
    for (size_t& example : drawn) example = random.below(examples);
    double difference = 0.0;
    for (size_t run = 0; run < a.size(); ++run) {
      const size_t pair = random.below(a.size());
      difference += resampled(a[pair], drawn) - resampled(b[pair], drawn);
    }
    differences.push_back(difference / static_cast<double>(a.size()));
  }
  return percentiles(std::move(differences), confidence);
}

}  // namespace msplora
