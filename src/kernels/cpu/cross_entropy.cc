#include "kernels/cpu/activation_functions.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

template <typename T>
float largest(const T* row, int64_t n) {
  constexpr int kChains = 4;  // each waits for itself alone
  VecF best[kChains];
  for (VecF& one : best) one = splat(to_float(row[0]));
  int64_t j = 0;
  for (; j + kChains * kLanes <= n; j += kChains * kLanes)
    for (int c = 0; c < kChains; ++c) best[c] = vmax(load(row + j + c * kLanes), best[c]);
  for (; j + kLanes <= n; j += kLanes) best[0] = vmax(load(row + j), best[0]);
  float top = max_lanes(vmax(vmax(best[0], best[1]), vmax(best[2], best[3])));
  for (int64_t i = n / kLanes * kLanes; i < n; ++i) {
    const float value = to_float(row[i]);
    top = value > top ? value : top;
  }
  return top;
}

// Σ exp(x - top).
template <typename T>
float sum_of_powers(const T* row, int64_t n, float top) {
  VecF total = splat(0.0f);
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) total += exp<true>(load(row + i) - top);
  float sum = sum_lanes(total);
  const int64_t full = n / kLanes * kLanes;
  if (const int rest = static_cast<int>(n - full)) {
    float powers[kLanes];
    store(powers, exp<true>(load_part(row + full, rest) - top));
    for (int i = 0; i < rest; ++i) sum += powers[i];
  }
  return sum;
}

template <typename T>
void cap(T* row, int64_t n, float limit) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = lanes_from(i, n);
    store_some(row + i, tanh(load_some(row + i, count) / limit) * limit, count);
  }
}

// The derivative of the cap at its value z.
MSPLORA_INLINE VecF slope_at(VecF z, float limit) {
  const VecF t = z / limit;
  return 1.0f - t * t;
}

template <typename T>
void one_row(const CrossEntropyRows<T>& op, int64_t row) {
  T* logits = op.logits + row * op.classes;
  const int64_t label = op.labels[row];
  const auto limit = static_cast<float>(op.soft_cap);
  if (limit > 0) cap(logits, op.classes, limit);
  const float top = largest(logits, op.classes), sum = sum_of_powers(logits, op.classes, top);
  const float log_sum = __builtin_logf(sum);
  // Differences of close numbers in double: the loss of a sure row is tiny.
  op.losses[row] =
      static_cast<double>(top) - static_cast<double>(to_float(logits[label])) + static_cast<double>(log_sum);
  if (!op.with_gradient) return;
  const float inverse = 1.0f / sum;
  const float at_label = exp(splat(to_float(logits[label]) - top))[0];
  const float slope_of_label = limit > 0 ? slope_at(splat(to_float(logits[label])), limit)[0] : 1.0f;
  for (int64_t i = 0; i < op.classes; i += kLanes) {
    const int n = lanes_from(i, op.classes);
    const VecF z = load_some(logits + i, n);
    VecF gradient = exp<true>(z - top) * inverse;
    if (limit > 0) gradient *= slope_at(z, limit);
    store_some(logits + i, gradient, n);
  }
  set(logits[label], (at_label * inverse - 1.0f) * slope_of_label);
}

}  // namespace

template <typename T>
void cross_entropy_rows(const CrossEntropyRows<T>& op) {
#pragma omp parallel for schedule(static) if (op.rows * op.classes > kParallelElements)
  for (int64_t row = 0; row < op.rows; ++row) one_row(op, row);
}

MSPLORA_DEFINED(cross_entropy_rows, CrossEntropyRows)

}  // namespace msplora::kernels::MSPLORA_ISA
