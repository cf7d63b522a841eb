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

MSPLORA_INLINE VecF tanh(VecF x) {
  return 2.0f * logistic(2.0f * x) - 1.0f;
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

/// GELU and its derivative for results that are rounded to bfloat16: the cumulative normal and the derivative
/// are 0.5 + x times a polynomial in x^2 on [-4, 4] (minimax, with 0 and 1 at the ends, which hold beyond
/// them). Value within 1.4e-4, derivative within 5.2e-4, where the rounding of 1 is 3.9e-3; half the work.
struct GeluForBf16 {
  static inline __attribute__((always_inline)) Pair at(VecF x) {
    const VecF above = vmax(splat(-4.0f), x), c = vmin(splat(4.0f), above), u = c * c;
    VecF p = splat(-1.303152210e-9f), q = splat(-9.160597386e-10f);
    q = q * u + 4.583030490e-8f;
    p = p * u + 1.059223227e-7f;
    q = q * u - 5.275765405e-7f;
    p = p * u - 3.744203004e-6f;
    q = q * u - 1.262128551e-5f;
    p = p * u + 7.659880680e-5f;
    q = q * u + 4.694194976e-4f;
    p = p * u - 1.023605855e-3f;
    q = q * u - 6.642783525e-3f;
    p = p * u + 9.589519237e-3f;
    q = q * u + 5.326638566e-2f;
    p = p * u - 6.607529166e-2f;
    q = q * u - 2.590217475e-1f;
    p = p * u + 3.988099012e-1f;
    q = q * u + 7.957288369e-1f;
    return {above * (c * p + 0.5f), c * q + 0.5f};
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
    const VecF s = logistic(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  }
};

struct Tanh {
  static inline __attribute__((always_inline)) Pair at(VecF x) {
    const VecF t = tanh(x);
    return {t, 1.0f - t * t};
  }
};

template <typename T>
struct GeluChoice {
  using Function = Gelu;
};
template <>
struct GeluChoice<Bfloat16> {
  using Function = GeluForBf16;
};
/// The one whose accuracy suits results of type T.
template <typename T>
using GeluFor = typename GeluChoice<T>::Function;

/// body.operator()<F>() with the function that `kind` names, for results of type T.
template <typename T, typename Body>
MSPLORA_INLINE auto with_function(Activation kind, const Body& body) {
  switch (kind) {
    case Activation::kGelu:
      return body.template operator()<GeluFor<T>>();
    case Activation::kGeluTanh:
      return body.template operator()<GeluTanh>();
    case Activation::kRelu:
      return body.template operator()<Relu>();
    case Activation::kSilu:
      break;
    case Activation::kTanh:
      return body.template operator()<Tanh>();
  }
  return body.template operator()<Silu>();
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
