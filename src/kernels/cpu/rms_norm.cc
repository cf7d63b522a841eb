#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kSumSlot = 0;

template <typename T>
void forward_row(const ResidualRmsNorm<T>& op, int64_t row) {
  const int64_t width = op.width, offset = row * width;
  float* s = thread_scratch(kSumSlot, width + kLanes);
  VecF squares = splat(0.0f);
  for (int64_t i = 0; i < width; i += kLanes) {
    const int n = lanes_from(i, width);
    VecF value = load_some(op.x + offset + i, n);
    if (op.residual) value += load_some(op.residual + offset + i, n);
    store(s + i, value);
    squares += value * value;
    if (op.s) store_some(op.s + offset + i, value, n);
  }
  const float mean = sum_lanes(squares) / static_cast<float>(width);
  const float inverse = 1.0f / __builtin_sqrtf(mean + static_cast<float>(op.eps));
  op.inverse[row] = inverse;
  for (int64_t i = 0; i < width; i += kLanes) {
    const int n = lanes_from(i, width);
    store_some(op.y + offset + i, load(s + i) * inverse * load_some(op.gamma + i, n), n);
  }
}

// With g = dy * gamma and n = s * inverse:  ds = inverse * (g - n * mean(g n)) + d_s.
template <typename T>
void backward_row(const ResidualRmsNormBackward<T>& op, int64_t row) {
  const int64_t width = op.width, offset = row * width;
  const float inverse = op.inverse[row];
  VecF products = splat(0.0f);
  for (int64_t i = 0; i < width; i += kLanes) {
    const int n = lanes_from(i, width);
    const VecF g = load_some(op.dy + offset + i, n) * load_some(op.gamma + i, n);
    products += g * (load_some(op.s + offset + i, n) * inverse);
  }
  const float mean = sum_lanes(products) / static_cast<float>(width);
  for (int64_t i = 0; i < width; i += kLanes) {
    const int n = lanes_from(i, width);
    const VecF g = load_some(op.dy + offset + i, n) * load_some(op.gamma + i, n);
    VecF ds = (g - load_some(op.s + offset + i, n) * (inverse * mean)) * inverse;
    if (op.d_s) ds += load_some(op.d_s + offset + i, n);
    store_some(op.d_x + offset + i, ds, n);
  }
}

// Columns are split among the threads and rows added in order: the sums do not depend on their number.
template <typename T>
void gamma_gradient(const ResidualRmsNormBackward<T>& op) {
  const int64_t width = op.width, chunks = (width + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(static) if (op.rows * width > kParallelElements)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = chunk * kLanes;
    const int n = lanes_from(begin, width);
    VecF sum = splat(0.0f);
    for (int64_t row = 0; row < op.rows; ++row) {
      const int64_t at = row * width + begin;
      sum += load_some(op.dy + at, n) * (load_some(op.s + at, n) * op.inverse[row]);
    }
    store_part(op.d_gamma + begin, sum, n);
  }
}

}  // namespace

template <typename T>
void residual_rms_norm(const ResidualRmsNorm<T>& op) {
  ThreadErrors errors;
#pragma omp parallel for schedule(dynamic, kRowsOfATask) if (op.rows * op.width > kParallelElements)
  for (int64_t row = 0; row < op.rows; ++row) errors.run([&] { forward_row(op, row); });
  errors.rethrow();
}

template <typename T>
void residual_rms_norm_backward(const ResidualRmsNormBackward<T>& op) {
  // First, as d_x may be written over what it reads.
  if (op.d_gamma) gamma_gradient(op);
  ThreadErrors errors;
#pragma omp parallel for schedule(dynamic, kRowsOfATask) if (op.rows * op.width > kParallelElements)
  for (int64_t row = 0; row < op.rows; ++row) errors.run([&] { backward_row(op, row); });
  errors.rethrow();
}

MSPLORA_DEFINED(residual_rms_norm, ResidualRmsNorm)
MSPLORA_DEFINED(residual_rms_norm_backward, ResidualRmsNormBackward)

}  // namespace msplora::kernels::MSPLORA_ISA
