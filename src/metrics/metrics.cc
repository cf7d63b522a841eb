#include "msplora/metrics/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "msplora/core/error.h"

namespace msplora {

ConfusionMatrix::ConfusionMatrix(int64_t classes)
    : classes_(classes),
      counts_(static_cast<size_t>(classes * classes)),
      targets_(static_cast<size_t>(classes)),
      predictions_(static_cast<size_t>(classes)) {}

void ConfusionMatrix::add(int64_t prediction, int64_t target, int64_t count) {
  if (prediction < 0 || prediction >= classes_ || target < 0 || target >= classes_) {
    throw Error(
        ErrorCode::kUsage, "metrics",
        fmt::format("prediction {} and target {} must be classes below {}", prediction, target, classes_));
  }
  counts_[static_cast<size_t>(target * classes_ + prediction)] += count;
  targets_[static_cast<size_t>(target)] += count;
  predictions_[static_cast<size_t>(prediction)] += count;
  total_ += count;
}

void ConfusionMatrix::merge(const ConfusionMatrix& other) {
  if (other.classes_ != classes_) {
    throw Error(ErrorCode::kUsage, "metrics",
                fmt::format("cannot merge {} and {} classes", classes_, other.classes_));
  }
  for (int64_t target = 0; target < classes_; ++target) {
    for (int64_t prediction = 0; prediction < classes_; ++prediction) {
      add(prediction, target, other.count(target, prediction));
    }
  }
}

int64_t ConfusionMatrix::count(int64_t target, int64_t prediction) const {
  return counts_.at(static_cast<size_t>(target * classes_ + prediction));
}

double ConfusionMatrix::accuracy() const {
  int64_t right = 0;
  for (int64_t k = 0; k < classes_; ++k) right += count(k, k);
  return total_ == 0 ? 0.0 : static_cast<double>(right) / static_cast<double>(total_);
}

double ConfusionMatrix::precision(int64_t positive) const {
  const int64_t n = predicted(positive);
  return n == 0 ? 0.0 : static_cast<double>(count(positive, positive)) / static_cast<double>(n);
}

double ConfusionMatrix::recall(int64_t positive) const {
  const int64_t n = support(positive);
  return n == 0 ? 0.0 : static_cast<double>(count(positive, positive)) / static_cast<double>(n);
}

double ConfusionMatrix::f1(int64_t positive) const {
  // 2 TP + FP + FN is the number of predictions plus the number of targets of the class.
  const auto k = static_cast<size_t>(positive);
  const int64_t denominator = predictions_.at(k) + targets_.at(k);
  return denominator == 0
             ? 0.0
             : 2.0 * static_cast<double>(count(positive, positive)) / static_cast<double>(denominator);
}

double ConfusionMatrix::macro_f1() const {
  double sum = 0;
  int64_t present = 0;
  for (int64_t k = 0; k < classes_; ++k) {
    if (predictions_[static_cast<size_t>(k)] + targets_[static_cast<size_t>(k)] == 0) continue;
    sum += f1(k);
    ++present;
  }
  return present == 0 ? 0.0 : sum / static_cast<double>(present);
}

double ConfusionMatrix::matthews() const {
  // As shares of the total, so that nothing overflows.
  const double s = static_cast<double>(total_);
  if (total_ == 0) return 0.0;
  double covariance = accuracy(), predicted = 1.0, actual = 1.0;
  bool one_prediction = false, one_target = false;
  for (size_t k = 0; k < targets_.size(); ++k) {
    const double p = static_cast<double>(predictions_[k]) / s, t = static_cast<double>(targets_[k]) / s;
    covariance -= p * t;
    predicted -= p * p;
    actual -= t * t;
    one_prediction = one_prediction || predictions_[k] == total_;
    one_target = one_target || targets_[k] == total_;
  }
  if (one_prediction || one_target) return 0.0;
  return std::clamp(covariance / std::sqrt(predicted * actual), -1.0, 1.0);
}

void CoMoments::add(double x, double y) {
  ++count_;
  const double n = static_cast<double>(count_);
  const double dx = x - mean_x_, dy = y - mean_y_;
  mean_x_ += dx / n;
  mean_y_ += dy / n;
  // One factor is the deviation from the old mean, the other from the new one.
  xx_ += dx * (x - mean_x_);
  yy_ += dy * (y - mean_y_);
  xy_ += dx * (y - mean_y_);
}

void CoMoments::merge(const CoMoments& other) {
  if (other.count_ == 0) return;
  const double a = static_cast<double>(count_), b = static_cast<double>(other.count_), n = a + b;
  const double dx = other.mean_x_ - mean_x_, dy = other.mean_y_ - mean_y_;
  xx_ += other.xx_ + dx * dx * a * b / n;
  yy_ += other.yy_ + dy * dy * a * b / n;
  xy_ += other.xy_ + dx * dy * a * b / n;
  mean_x_ += dx * b / n;
  mean_y_ += dy * b / n;
  count_ += other.count_;
}

double CoMoments::deviation_x() const {
  return count_ == 0 ? 0.0 : std::sqrt(xx_ / static_cast<double>(count_));
}

double CoMoments::deviation_y() const {
  return count_ == 0 ? 0.0 : std::sqrt(yy_ / static_cast<double>(count_));
}

double CoMoments::correlation() const {
  if (!(xx_ > 0) || !(yy_ > 0)) return 0.0;
  return std::clamp(xy_ / (std::sqrt(xx_) * std::sqrt(yy_)), -1.0, 1.0);
}

std::vector<double> average_ranks(const std::vector<float>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&values](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double rank = 0.5 * static_cast<double>(begin + 1 + end);
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = rank;
    begin = end;
  }
  return ranks;
}

double spearman_correlation(const std::vector<float>& x, const std::vector<float>& y) {
  if (x.size() != y.size()) {
    throw Error(ErrorCode::kUsage, "metrics",
                fmt::format("{} and {} values cannot be paired", x.size(), y.size()));
  }
  const std::vector<double> rank_x = average_ranks(x), rank_y = average_ranks(y);
  CoMoments moments;
  for (size_t i = 0; i < rank_x.size(); ++i) moments.add(rank_x[i], rank_y[i]);
  return moments.correlation();
}

namespace {

double spearman_of(const std::vector<MetricPair>& pairs) {
  std::vector<float> predictions, targets;
  for (const MetricPair& pair : pairs) {
    predictions.push_back(pair.prediction);
    targets.push_back(pair.target);
  }
  return spearman_correlation(predictions, targets);
}

enum class Kind { kClass, kValue, kLoss };

struct MetricInfo {
  const char* name;
  Kind kind;
  bool greater_is_better;
};

constexpr std::array<MetricInfo, 9> kMetrics = {{{"accuracy", Kind::kClass, true},
                                                 {"f1", Kind::kClass, true},
                                                 {"matthews", Kind::kClass, true},
                                                 {"pearson", Kind::kValue, true},
                                                 {"spearman", Kind::kValue, true},
                                                 {"mse", Kind::kValue, false},
                                                 {"mae", Kind::kValue, false},
                                                 {"loss", Kind::kLoss, false},
                                                 {"perplexity", Kind::kLoss, false}}};

const MetricInfo* find_metric(std::string_view name) {
  const auto found =
      std::find_if(kMetrics.begin(), kMetrics.end(), [name](const MetricInfo& m) { return m.name == name; });
  return found == kMetrics.end() ? nullptr : &*found;
}

}  // namespace

std::vector<std::string> metric_names() {
  std::vector<std::string> names;
  for (const MetricInfo& metric : kMetrics) names.emplace_back(metric.name);
  return names;
}

bool metric_greater_is_better(std::string_view name) {
  if (const MetricInfo* metric = find_metric(name)) return metric->greater_is_better;
  throw Error(ErrorCode::kConfig, "metrics",
              fmt::format("expected one of {}, found `{}`", fmt::join(metric_names(), ", "), name),
              did_you_mean(name, metric_names()));
}

std::vector<std::string> metrics_for(int64_t num_labels) {
  if (num_labels == 1) return {"pearson", "spearman", "mse", "mae"};
  return {"accuracy", "f1", "matthews"};
}

MetricSet::MetricSet(std::vector<std::string> names, int64_t num_labels, double rounding)
    : names_(std::move(names)),
      rounding_(rounding),
      confusion_(num_labels > 1 ? num_labels : 0),
      keeps_pairs_(std::find(names_.begin(), names_.end(), "spearman") != names_.end()) {}

MetricSet MetricSet::create(const std::vector<std::string>& names, int64_t num_labels, double rounding) {
  ErrorList problems;
  if (num_labels < 0) problems.add("metrics", fmt::format("expected 0 labels or more, got {}", num_labels));
  for (const std::string& name : names) {
    const MetricInfo* metric = find_metric(name);
    if (metric == nullptr) {
      problems.add("metrics",
                   fmt::format("expected one of {}, found `{}`", fmt::join(metric_names(), ", "), name),
                   did_you_mean(name, metric_names()));
    } else if (num_labels == 0 && metric->kind != Kind::kLoss && name != "accuracy") {
      problems.add("metrics", fmt::format("`{}` is no metric of a language model", name),
                   "use loss, perplexity or accuracy");
    } else if (metric->kind == Kind::kClass && num_labels == 1) {
      problems.add("metrics", fmt::format("`{}` needs classes, but the task is a regression", name),
                   "use pearson, spearman, mse, mae or loss");
    } else if (metric->kind == Kind::kValue && num_labels > 1) {
      problems.add("metrics",
                   fmt::format("`{}` needs a regression, but the task has {} classes", name, num_labels),
                   "use accuracy, f1, matthews or loss");
    }
  }
  problems.throw_if_any(ErrorCode::kConfig, "metrics");
  return MetricSet(names, num_labels, rounding);
}

void MetricSet::update_class(int64_t prediction, int64_t target) {
  confusion_.add(prediction, target);
  if (keeps_pairs_) pairs_.push_back({static_cast<float>(prediction), static_cast<float>(target)});
}

void MetricSet::update_right(int64_t right, int64_t count) {
  right_ += right;
  right_of_ += count;
}

void MetricSet::update_value(double prediction, double target) {
  if (!std::isfinite(prediction) || !std::isfinite(target)) {
    throw Error(ErrorCode::kNumerics, "metrics",
                fmt::format("expected finite numbers, got prediction {} for target {}", prediction, target));
  }
  moments_.add(prediction, target);
  const double error = prediction - target;
  squared_error_ += error * error;
  absolute_error_ += std::abs(error);
  if (keeps_pairs_) pairs_.push_back({static_cast<float>(prediction), static_cast<float>(target)});
}

void MetricSet::update_loss(double sum, int64_t count) {
  if (!std::isfinite(sum)) {
    throw Error(ErrorCode::kNumerics, "metrics", fmt::format("expected a finite loss, got {}", sum));
  }
  loss_sum_ += sum;
  loss_count_ += count;
}

void MetricSet::merge(const MetricSet& other) {
  if (other.names_ != names_)
    throw Error(ErrorCode::kUsage, "metrics", "the two sets hold different metrics");
  confusion_.merge(other.confusion_);
  moments_.merge(other.moments_);
  right_ += other.right_;
  right_of_ += other.right_of_;
  squared_error_ += other.squared_error_;
  absolute_error_ += other.absolute_error_;
  pairs_.insert(pairs_.end(), other.pairs_.begin(), other.pairs_.end());
  loss_sum_ += other.loss_sum_;
  loss_count_ += other.loss_count_;
}

int64_t MetricSet::seen(const std::string& name) const {
  switch (find_metric(name)->kind) {
    case Kind::kClass:
      return confusion_.total() + right_of_;
    case Kind::kValue:
      return moments_.count();
    case Kind::kLoss:
      break;
  }
  return loss_count_;
}

bool MetricSet::predictions_vary() const {
  const double scale = std::max(std::abs(moments_.mean_x()), moments_.deviation_y());
  return moments_.deviation_x() > rounding_ * scale;
}

double MetricSet::value(const std::string& name) const {
  const double n = static_cast<double>(seen(name));
  if (name == "accuracy" && right_of_ > 0) return static_cast<double>(right_) / n;
  if (name == "accuracy") return confusion_.accuracy();
  if (name == "f1") return confusion_.classes() == 2 ? confusion_.f1(1) : confusion_.macro_f1();
  if (name == "matthews") return confusion_.matthews();
  if ((name == "pearson" || name == "spearman") && !predictions_vary()) return 0.0;
  if (name == "pearson") return moments_.correlation();
  if (name == "spearman") return spearman_of(pairs_);
  if (name == "mse") return squared_error_ / n;
  if (name == "mae") return absolute_error_ / n;
  return name == "perplexity" ? std::exp(loss_sum_ / n) : loss_sum_ / n;
}

std::map<std::string, double> MetricSet::compute() const {
  std::map<std::string, double> values;
  for (const std::string& name : names_) {
    if (seen(name) == 0) {
      throw Error(ErrorCode::kData, "metrics", fmt::format("`{}` has seen no examples", name));
    }
    values[name] = value(name);
  }
  return values;
}

}  // namespace msplora
