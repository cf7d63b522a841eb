#pragma once

#include <cstdint>
#include <string>

namespace msplora {

/// The learning rate of each optimizer step as a factor of its peak.
///
/// With s the step (from 0), w the steps of warm-up and n all steps:
///   s < w             s / w
///   linear, s >= w    (n - s) / (n - w), not below 0
///   cosine, s >= w    (1 + cos(pi (s - w) / (n - w))) / 2
///   constant, s >= w  1
/// the values of Hugging Face's get_{linear,cosine,constant}_schedule_with_warmup. The first step with a
/// warm-up has the factor 0, as there.
class Schedule {
 public:
  /// `shape` is "linear", "cosine" or "constant"; throws Error{kConfig} otherwise. A warm-up ratio is rounded
  /// up to steps and counts when warmup_steps is 0.
  Schedule(const std::string& shape, int64_t total_steps, int64_t warmup_steps, double warmup_ratio = 0.0);

  double factor(int64_t step) const;
  int64_t total_steps() const { return total_steps_; }
  int64_t warmup_steps() const { return warmup_steps_; }

 private:
  enum class Shape { kLinear, kCosine, kConstant };
  Shape shape_;
  int64_t total_steps_;
  int64_t warmup_steps_;
};

}  // namespace msplora
