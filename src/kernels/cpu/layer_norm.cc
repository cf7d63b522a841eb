#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/mask.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kSumSlot = 0, kMaskSlot = 1;

MaskBits row_mask(const DropoutMask& mask, int64_t first, int64_t width) {
  if (!mask.active()) return {};
  return draw_row(mask, first, width,
                  reinterpret_cast<uint64_t*>(thread_scratch(kMaskSlot, 2 * mask_words(width))));
}

// mask(x) + residual.
template <typename T>
struct RowReader {
  const T* x;
  const T* residual;
  MaskBits mask;
  float scale;

  VecF combine(VecF x, VecF residual, int64_t i) const {
    return (mask.active() ? keep(x * scale, mask, i) : x) + residual;
  }
  VecF at(int64_t i) const { return combine(load(x + i), residual ? load(residual + i) : splat(0.0f), i); }
  VecF part(int64_t i, int n) const {
    return combine(load_part(x + i, n), residual ? load_part(residual + i, n) : splat(0.0f), i);
  }
};

template <typename T>
void normalise_row(const ResidualLayerNorm<T>& op, int64_t row, const float* s) {
  const int64_t width = op.width;
  const int64_t full = width / kLanes * kLanes;
  const int rest = static_cast<int>(width - full);
  VecF total = splat(0.0f);
  for (int64_t i = 0; i < full; i += kLanes) total += load(s + i);
  if (rest) total += load_part(s + full, rest);
  const float mean = sum_lanes(total) / static_cast<float>(width);
  VecF squares = splat(0.0f);
  for (int64_t i = 0; i < full; i += kLanes) {
    const VecF centred = load(s + i) - mean;
    squares += centred * centred;
  }
  float variance = sum_lanes(squares);
  for (int64_t i = full; i < width; ++i) variance += (s[i] - mean) * (s[i] - mean);
  const float rstd =
      1.0f / __builtin_sqrtf(variance / static_cast<float>(width) + static_cast<float>(op.eps));
  op.mean[row] = mean;
  op.rstd[row] = rstd;
  T* y = op.y + row * width;
  for (int64_t i = 0; i < full; i += kLanes)
    store(y + i, (load(s + i) - mean) * rstd * load(op.gamma + i) + load(op.beta + i));
  for (int64_t i = full; i < width; ++i) set(y[i], (s[i] - mean) * rstd * op.gamma[i] + op.beta[i]);
}

template <typename T>
void forward_row(const ResidualLayerNorm<T>& op, int64_t row) {
  const int64_t width = op.width, offset = row * width;
  float* s = thread_scratch(kSumSlot, width + kLanes);
  const RowReader<T> reader{op.x + offset, op.residual ? op.residual + offset : nullptr,
                            row_mask(op.mask, offset, width), static_cast<float>(op.mask.scale())};
  const int64_t full = width / kLanes * kLanes;
  for (int64_t i = 0; i < full; i += kLanes) {
    const VecF value = reader.at(i);
    store(s + i, value);
    if (op.s) store(op.s + offset + i, value);
  }
  if (const int rest = static_cast<int>(width - full)) {
    const VecF value = reader.part(full, rest);
    store_part(s + full, value, rest);
    if (op.s) store_part(op.s + offset + full, value, rest);
  }
  normalise_row(op, row, s);
}

// With g = dy * gamma and n = (s - mean) * rstd:  ds = rstd * (g - mean(g) - n * mean(g n)).
template <typename T>
void backward_row(const ResidualLayerNormBackward<T>& op, int64_t row) {
  const int64_t width = op.width, offset = row * width;
  const T* dy = op.dy + offset;
  const T* s = op.s + offset;
  const float mean = op.mean[row], rstd = op.rstd[row];
  const int64_t full = width / kLanes * kLanes;
  const int rest = static_cast<int>(width - full);
  VecF sum_g = splat(0.0f), sum_gn = splat(0.0f);
  for (int64_t i = 0; i < full; i += kLanes) {
    const VecF g = load(dy + i) * load(op.gamma + i);
    sum_g += g;
    sum_gn += g * ((load(s + i) - mean) * rstd);
  }
  float total_g = sum_lanes(sum_g), total_gn = sum_lanes(sum_gn);
  for (int64_t i = full; i < width; ++i) {
    const float g = to_float(dy[i]) * op.gamma[i];
    total_g += g;
    total_gn += g * (to_float(s[i]) - mean) * rstd;
  }
  const float mean_g = total_g / static_cast<float>(width), mean_gn = total_gn / static_cast<float>(width);
  const MaskBits mask = row_mask(op.mask, offset, width);
  const float scale = static_cast<float>(op.mask.scale());
  for (int64_t i = 0; i < full; i += kLanes) {
    const VecF n = (load(s + i) - mean) * rstd;
    const VecF ds = (load(dy + i) * load(op.gamma + i) - mean_g - n * mean_gn) * rstd;
    if (op.d_residual) store(op.d_residual + offset + i, ds);
    if (op.d_x && (mask.active() || op.d_x != op.d_residual))
      store(op.d_x + offset + i, mask.active() ? keep(ds * scale, mask, i) : ds);
  }
  if (rest) {
    const VecF n = (load_part(s + full, rest) - mean) * rstd;
    const VecF ds =
        (load_part(dy + full, rest) * load_part(op.gamma + full, rest) - mean_g - n * mean_gn) * rstd;
    if (op.d_residual) store_part(op.d_residual + offset + full, ds, rest);
    if (op.d_x && (mask.active() || op.d_x != op.d_residual))
      store_part(op.d_x + offset + full, mask.active() ? keep(ds * scale, mask, full) : ds, rest);
  }
}

// d_gamma and d_beta: columns are split among the threads, rows are added in order, so the sums do not depend
// on the number of threads.
template <typename T>
void parameter_gradients(const ResidualLayerNormBackward<T>& op) {
  const int64_t width = op.width;
  const int64_t chunks = (width + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(static) if (op.rows * width > kParallelElements)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = chunk * kLanes;
    const int count = static_cast<int>(width - begin < kLanes ? width - begin : kLanes);
    VecF gamma = splat(0.0f), beta = splat(0.0f);
    for (int64_t row = 0; row < op.rows; ++row) {
      const int64_t at = row * width + begin;
      const VecF dy = count == kLanes ? load(op.dy + at) : load_part(op.dy + at, count);
      const VecF s = count == kLanes ? load(op.s + at) : load_part(op.s + at, count);
      gamma += dy * ((s - op.mean[row]) * op.rstd[row]);
      beta += dy;
    }
    if (op.d_gamma) store_part(op.d_gamma + begin, gamma, count);
    if (op.d_beta) store_part(op.d_beta + begin, beta, count);
  }
}

}  // namespace

template <typename T>
void residual_layer_norm(const ResidualLayerNorm<T>& op) {
  ThreadErrors errors;
#pragma omp parallel for schedule(dynamic, kRowsOfATask) if (op.rows * op.width > kParallelElements)
  for (int64_t row = 0; row < op.rows; ++row) errors.run([&] { forward_row(op, row); });
  errors.rethrow();
}

template <typename T>
void residual_layer_norm_backward(const ResidualLayerNormBackward<T>& op) {
  if (op.d_x || op.d_residual) {
    ThreadErrors errors;
#pragma omp parallel for schedule(dynamic, kRowsOfATask) if (op.rows * op.width > kParallelElements)
    for (int64_t row = 0; row < op.rows; ++row) errors.run([&] { backward_row(op, row); });
    errors.rethrow();
  }
  if (op.d_gamma || op.d_beta) parameter_gradients(op);
}

MSPLORA_DEFINED(residual_layer_norm, ResidualLayerNorm)
MSPLORA_DEFINED(residual_layer_norm_backward, ResidualLayerNormBackward)

}  // namespace msplora::kernels::MSPLORA_ISA
