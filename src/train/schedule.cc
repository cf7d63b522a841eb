#include "msplora/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "msplora/core/error.h"

namespace msplora {

Schedule::Schedule(const std::string& shape, int64_t total_steps, int64_t warmup_steps, double warmup_ratio)
    : total_steps_(total_steps), warmup_steps_(warmup_steps) {
  if (shape == "linear") {
    shape_ = Shape::kLinear;
  } else if (shape == "cosine") {
    shape_ = Shape::kCosine;
  } else if (shape == "constant") {
    shape_ = Shape::kConstant;
  } else {
    throw Error(ErrorCode::kConfig, "train.schedule", "unknown schedule `" + shape + "`",
                did_you_mean(shape, {"linear", "cosine", "constant"}));
  }
  if (warmup_steps_ == 0) warmup_steps_ = static_cast<int64_t>(std::ceil(warmup_ratio * total_steps));
}

double Schedule::factor(int64_t step) const {
  if (step < warmup_steps_) return static_cast<double>(step) / static_cast<double>(warmup_steps_);
  if (shape_ == Shape::kConstant) return 1.0;
  const auto rest = static_cast<double>(std::max<int64_t>(1, total_steps_ - warmup_steps_));
  const double share = std::min(1.0, static_cast<double>(step - warmup_steps_) / rest);
  if (shape_ == Shape::kLinear) return 1.0 - share;
  return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * share)));
}

}  // namespace msplora
