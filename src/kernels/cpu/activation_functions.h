#pragma once

#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {
// Internal linkage: every instruction set has its own.
namespace {

// erf by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7); `gauss` returns exp(-x^2), which the
// derivative of GELU needs as well.
MSPLORA_INLINE VecF erf(VecF x, VecF* gauss) {
  const VecF ax = vmax(x, -x);
  const VecF t = reciprocal(1.0f + 0.3275911f * ax);
  VecF p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  *gauss = exp<true>(-ax * ax);
  const VecF magnitude = 1.0f - p * t * *gauss;
  return select(x < 0.0f, -magnitude, magnitude);
}

MSPLORA_INLINE VecF sigmoid(VecF x) {
  return 1.0f / (1.0f + exp(-x));
}
MSPLORA_INLINE VecF tanh(VecF x) {
  return 2.0f * sigmoid(2.0f * x) - 1.0f;
}

constexpr float kTanhCoefficient = 0.7978845608028654f;  // sqrt(2 / pi)

/// f(x) and f'(x).
struct Pair {
  VecF value, derivative;
};

struct Gelu {
  static inline __attribute__((always_inline)) Pair at(VecF x) {
    VecF gauss;
    const VecF cdf = 0.5f + 0.5f * erf(x * 0.70710678118654752f, &gauss);
    return {x * cdf, cdf + x * gauss * 0.3989422804014327f};  // 1 / sqrt(2 pi)
  }
};

struct GeluTanh {
  static inline __attribute__((always_inline)) Pair at(VecF x) {
    const VecF square = x * x;
    const VecF t = tanh(kTanhCoefficient * x * (1.0f + 0.044715f * square));
    const VecF inner = kTanhCoefficient * (1.0f + 3.0f * 0.044715f * square);
    const VecF half = 0.5f * (1.0f + t);
    return {x * half, half + 0.5f * x * (1.0f - t * t) * inner};
  }
};

struct Relu {
  // Written so that NaN passes.
  static inline __attribute__((always_inline)) Pair at(VecF x) {
    return {select(x < 0.0f, splat(0.0f), x), select(x > 0.0f, splat(1.0f), splat(0.0f))};
  }
};

struct Silu {
  static inline __attribute__((always_inline)) Pair at(VecF x) {
    const VecF s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  }
};

struct Tanh {
  static inline __attribute__((always_inline)) Pair at(VecF x) {
    const VecF t = tanh(x);
    return {t, 1.0f - t * t};
  }
};

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
