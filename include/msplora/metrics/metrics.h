#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace msplora {

/// Counts of (target, prediction) pairs; all metrics of classification follow from it.
class ConfusionMatrix {
 public:
  explicit ConfusionMatrix(int64_t classes);
  /// Throws Error{kUsage} for a class outside [0, classes).
  void add(int64_t prediction, int64_t target, int64_t count = 1);
  void merge(const ConfusionMatrix& other);

  int64_t classes() const noexcept { return classes_; }
  int64_t count(int64_t target, int64_t prediction) const;
  int64_t total() const noexcept { return total_; }
  /// Examples of a class, and predictions of it.
  int64_t support(int64_t target) const { return targets_.at(static_cast<size_t>(target)); }
  int64_t predicted(int64_t prediction) const { return predictions_.at(static_cast<size_t>(prediction)); }

  /// Share of right predictions.
  double accuracy() const;
  /// TP / (TP + FP) and TP / (TP + FN) of one class; 0 where it is never predicted, and where it has no
  /// examples.
  double precision(int64_t positive) const;
  double recall(int64_t positive) const;
  /// 2 TP / (2 TP + FP + FN) of one class; 0 when the class occurs neither as target nor as prediction.
  double f1(int64_t positive) const;
  /// Mean F1 of the classes that occur as target or prediction.
  double macro_f1() const;
  /// Matthews correlation in the form for K classes (Gorodkin 2004):
  /// (c s - sum_k p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)), with s examples, c right, p_k
  /// predictions and t_k targets of class k. 0 when all targets or all predictions are of one class.
  double matthews() const;

 private:
  int64_t classes_;
  int64_t total_ = 0;
  std::vector<int64_t> counts_;  // [target, prediction]
  std::vector<int64_t> targets_, predictions_;
};

/// Means and co-moments of pairs, updated one pair at a time without cancellation (Welford; merging after
/// Chan et al. 1979).
class CoMoments {
 public:
  void add(double x, double y);
  void merge(const CoMoments& other);
  int64_t count() const noexcept { return count_; }
  double mean_x() const noexcept { return mean_x_; }
  /// Standard deviations (of n, not n - 1); 0 without pairs.
  double deviation_x() const;
  double deviation_y() const;
  /// Pearson correlation, in [-1, 1]. 0 when either side does not vary: no linear relation can be seen, and a
  /// number keeps comparison of checkpoints and JSON output well-defined.
  double correlation() const;

 private:
  int64_t count_ = 0;
  double mean_x_ = 0, mean_y_ = 0;
  double xx_ = 0, yy_ = 0, xy_ = 0;  // sums of products of deviations from the means
};

/// Ranks from 1; equal values share the mean of their ranks.
std::vector<double> average_ranks(const std::vector<float>& values);

/// Spearman correlation: Pearson correlation of the average ranks; 0 when either side does not vary.
double spearman_correlation(const std::vector<float>& x, const std::vector<float>& y);

/// The names MetricSet knows:
/// classes: accuracy, f1 (binary: of class 1; more classes: macro), matthews;
/// values: pearson, spearman, mse, mae;
/// loss: loss (mean), perplexity (its exponential; infinite when that overflows).
std::vector<std::string> metric_names();
/// Whether a larger value is better. Throws Error{kConfig} for an unknown name.
bool metric_greater_is_better(std::string_view name);
/// The metrics that suit a task of `num_labels` classes (1: regression).
std::vector<std::string> metrics_for(int64_t num_labels);

/// Predictions that differ by less than this share of their mean or of the targets' deviation are equal to
/// rounding: sums of float32 come out differently from batch to batch.
inline constexpr double kFloat32Rounding = 1e-6;
/// The same where the model computes in bfloat16.
inline constexpr double kBFloat16Rounding = 1e-3;

/// What was said of one example and what is true of it: numbers of classes, or values.
struct MetricPair {
  float prediction = 0.0F, target = 0.0F;
};

/// Several metrics computed together while predictions stream by. Memory does not grow with the data, unless
/// pairs are kept: for spearman, or on demand.
class MetricSet {
 public:
  /// Throws Error{kConfig} naming every metric that is unknown (with the nearest) or does not suit the task:
  /// class metrics need num_labels of 2 or more, value metrics 1; a language model (0) has accuracy and the
  /// losses. Correlations of predictions that vary by
  /// `rounding` at most (see kFloat32Rounding) are undefined, and so 0.
  static MetricSet create(const std::vector<std::string>& names, int64_t num_labels,
                          double rounding = kFloat32Rounding);

  /// From now on keeps the pairs of update_class and update_value, in their order.
  void keep_pairs() { keeps_pairs_ = true; }
  const std::vector<MetricPair>& pairs() const noexcept { return pairs_; }

  /// A predicted and a true class.
  void update_class(int64_t prediction, int64_t target);
  /// How many of `count` predictions were right, where the classes are too many for a table of them.
  void update_right(int64_t right, int64_t count);
  /// A predicted and a true value. Throws Error{kNumerics} when one is not finite.
  void update_value(double prediction, double target);
  /// A sum of losses over `count` examples or tokens. Throws Error{kNumerics} when it is not finite.
  void update_loss(double sum, int64_t count);
  /// Adds what another set with the same metrics has seen.
  void merge(const MetricSet& other);

  /// Values by name. Throws Error{kData} for a metric that has seen nothing.
  std::map<std::string, double> compute() const;
  const std::vector<std::string>& names() const noexcept { return names_; }
  /// Of update_class; without classes (num_labels 1) empty.
  const ConfusionMatrix& confusion() const noexcept { return confusion_; }
  /// Of update_value: x is the prediction, y the target.
  const CoMoments& moments() const noexcept { return moments_; }

 private:
  MetricSet(std::vector<std::string> names, int64_t num_labels, double rounding);
  bool predictions_vary() const;
  double value(const std::string& name) const;
  int64_t seen(const std::string& name) const;

  std::vector<std::string> names_;
  double rounding_;
  ConfusionMatrix confusion_;
  CoMoments moments_;
  double squared_error_ = 0, absolute_error_ = 0;
  bool keeps_pairs_ = false;
  std::vector<MetricPair> pairs_;
  int64_t right_ = 0, right_of_ = 0;  // of update_right
  double loss_sum_ = 0;
  int64_t loss_count_ = 0;
};

}  // namespace msplora
