#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kAngleSlot = 14;

typedef uint64_t VecPair __attribute__((vector_size(kLanes * 4)));

// Neighbours change places: two lanes are one 64-bit number.
MSPLORA_INLINE VecF swap_neighbours(VecF v) {
  const VecPair pairs = (VecPair)v;
  return (VecF)((pairs >> 32) | (pairs << 32));
}

template <typename T>
void turn_halves(const T* x, T* y, int64_t half, const float* cos, const float* sin, float sign) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int n = lanes_from(i, half);
    const VecF a = load_some(x + i, n), b = load_some(x + half + i, n);
    const VecF c = load_some(cos + i, n), s = load_some(sin + i, n) * sign;
    store_some(y + i, a * c - b * s, n);
    store_some(y + half + i, b * c + a * s, n);
  }
}

// cos holds each cosine twice, sin each sine twice, the first of a pair negated.
template <typename T>
void turn_neighbours(const T* x, T* y, int64_t dim, const float* cos, const float* sin) {
  for (int64_t i = 0; i < dim; i += kLanes) {
    const int n = lanes_from(i, dim);
    const VecF v = load_some(x + i, n);
    store_some(y + i, v * load_some(cos + i, n) + swap_neighbours(v) * load_some(sin + i, n), n);
  }
}

template <typename T>
void turn_token(const Rotary<T>& op, int64_t token) {
  const int64_t half = op.rotary_dim / 2;
  const float* cos = op.cos + op.positions[token] * half;
  const float* sin = op.sin + op.positions[token] * half;
  const float sign = op.inverse ? -1.0f : 1.0f;
  float* wide_cos = nullptr;
  float* wide_sin = nullptr;
  if (op.pairs == RotaryPairs::kInterleaved) {
    wide_cos = thread_scratch(kAngleSlot, 2 * op.rotary_dim);
    wide_sin = wide_cos + op.rotary_dim;
    for (int64_t i = 0; i < half; ++i) {
      wide_cos[2 * i] = wide_cos[2 * i + 1] = cos[i];
      wide_sin[2 * i] = -sign * sin[i];
      wide_sin[2 * i + 1] = sign * sin[i];
    }
  }
  for (int64_t head = 0; head < op.heads; ++head) {
    const T* x = op.x + token * op.x_stride + head * op.head_dim;
    T* y = op.y + token * op.y_stride + head * op.head_dim;
    if (wide_cos) {
      turn_neighbours(x, y, op.rotary_dim, wide_cos, wide_sin);
    } else {
      turn_halves(x, y, half, cos, sin, sign);
    }
    if (x != y)
      std::memcpy(y + op.rotary_dim, x + op.rotary_dim,
                  sizeof(T) * static_cast<size_t>(op.head_dim - op.rotary_dim));
  }
}

}  // namespace

template <typename T>
void rotary(const Rotary<T>& op) {
  ThreadErrors errors;
#pragma omp parallel for schedule(static) if (op.tokens * op.heads * op.head_dim > kParallelElements)
  for (int64_t token = 0; token < op.tokens; ++token) errors.run([&] { turn_token(op, token); });
  errors.rethrow();
}

MSPLORA_DEFINED(rotary, Rotary)

}  // namespace msplora::kernels::MSPLORA_ISA
