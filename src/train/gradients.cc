#include "msplora/train/gradients.h"

#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <fmt/ranges.h>
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {
namespace {

constexpr int64_t kChunk = 1 << 14;

template <typename T>
double chunk_sum(const T* values, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return sum;
}

template <typename T>
double chunked_sum(const at::Tensor& tensor) {
  const T* values = tensor.data_ptr<T>();
  const int64_t count = tensor.numel();
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  if (chunks <= 1) return chunk_sum(values, count);
  std::vector<double> sums(static_cast<size_t>(chunks));
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = chunk * kChunk;
    sums[static_cast<size_t>(chunk)] = chunk_sum(values + begin, std::min(kChunk, count - begin));
  }
  double sum = 0.0;
  for (const double part : sums) sum += part;
  return sum;
}

std::string list_names(const std::vector<std::string>& names) {
  constexpr size_t kShown = 12;
  std::string text =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + std::min(names.size(), kShown), ", "));
  if (names.size() > kShown) text += fmt::format(", and {} more", names.size() - kShown);
  return text;
}

}  // namespace

double sum_of_squares(const at::Tensor& tensor) {
  if (!tensor.device().is_cpu()) return tensor.detach().to(at::kDouble).square().sum().item<double>();
  const at::Tensor dense = tensor.detach().contiguous();
  return dense.scalar_type() == at::kDouble ? chunked_sum<double>(dense) : chunked_sum<float>(dense);
}

double clip_factor(double norm, double max_norm) {
  if (max_norm <= 0.0) return 1.0;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

GradientWatch::GradientWatch(std::vector<NamedTensor> tensors) {
  for (NamedTensor& tensor : tensors) entries_.push_back({std::move(tensor)});
}

GradientReport GradientWatch::examine(const std::set<std::string>& frozen, double lr_factor, bool exploded) {
  GradientReport report;
  double total = 0.0;
  std::vector<std::string> dead;
  size_t still = 0;   // without a gradient for kProbation steps
  size_t absent = 0;  // of the dead, those that no gradient reaches at all
  size_t lost = 0;    // had a gradient in an earlier step, and have none in this one
  for (Entry& entry : entries_) {
    if (frozen.contains(entry.parameter.name)) continue;
    const at::Tensor& gradient = entry.parameter.tensor.grad();
    const double squares = gradient.defined() ? sum_of_squares(gradient) : 0.0;
    total += squares;
    if (!std::isfinite(squares)) report.not_finite.push_back(entry.parameter.name);
    if (squares == 0.0 && entry.alive) ++lost;
    if (squares != 0.0) entry.alive = true;
    if (entry.alive) continue;
    if (entry.updates > 0) {
      ++entry.misses;
      if (!gradient.defined()) ++entry.absences;
      if (entry.misses >= kProbation) ++still;
      if (entry.absences >= kProbation) ++absent;
      if (entry.absences >= kProbation || entry.misses >= kZeroProbation)
        dead.push_back(entry.parameter.name);
    }
    if (lr_factor > 0.0) ++entry.updates;
  }
  report.norm = std::sqrt(total);
  if (still == 0) return report;
  // Nothing has a gradient any more: what came before ran the model into saturation.
  const bool any_alive =
      std::any_of(entries_.begin(), entries_.end(), [](const Entry& entry) { return entry.alive; });
  // Squares that float32 cannot hold make Adam's second moments infinite and its steps 0.
  const bool overflows = total > static_cast<double>(std::numeric_limits<float>::max());
  if (exploded || overflows || (total == 0.0 && any_alive)) {
    throw Error(
        ErrorCode::kNumerics, "training",
        fmt::format("loss or gradients exploded: the norm of the gradients is {:.3g}, and {} of {} trainable "
                    "tensors have none after the first updates",
                    report.norm, still, entries_.size()),
        "a smaller learning rate (train.lr) or adapter.alpha, or train.clip_norm and warm-up");
  }
  if (dead.empty()) return report;
  if (absent == 0 && lost > 0) {
    throw Error(
        ErrorCode::kNumerics, "training",
        fmt::format(
            "numbers overflow or vanish in the model: of {} trainable tensors {} had a gradient and have "
            "one of exactly 0 now, {} never had any other",
            entries_.size(), lost, dead.size()),
        "a smaller adapter.alpha or learning rate (train.lr), or train.clip_norm and warm-up");
  }
  throw Error(
      ErrorCode::kConfig, "training",
      fmt::format("{} of {} trainable tensors never got a gradient, so they would stay as they are: {}",
                  dead.size(), entries_.size(), list_names(dead)),
      absent > 0
          ? "they do not take part in the model's output; adapt other modules or remove them from "
            "modules_to_save"
          : "their gradients are there and exactly 0: nothing in the model's output depends on them, or "
            "its numbers overflow or vanish (adapter.alpha, train.lr)");
}

}  // namespace msplora
