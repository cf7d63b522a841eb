#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {
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
  static Pair at(VecF x) {
    VecF gauss;
    const VecF cdf = 0.5f + 0.5f * erf(x * 0.70710678118654752f, &gauss);
    return {x * cdf, cdf + x * gauss * 0.3989422804014327f};  // 1 / sqrt(2 pi)
  }
};

struct GeluTanh {
  static Pair at(VecF x) {
    const VecF square = x * x;
    const VecF t = tanh(kTanhCoefficient * x * (1.0f + 0.044715f * square));
    const VecF inner = kTanhCoefficient * (1.0f + 3.0f * 0.044715f * square);
    const VecF half = 0.5f * (1.0f + t);
    return {x * half, half + 0.5f * x * (1.0f - t * t) * inner};
  }
};

struct Relu {
  // Written so that NaN passes.
  static Pair at(VecF x) {
    return {select(x < 0.0f, splat(0.0f), x), select(x > 0.0f, splat(1.0f), splat(0.0f))};
  }
};

struct Silu {
  static Pair at(VecF x) {
    const VecF s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  }
};

struct Tanh {
  static Pair at(VecF x) {
    const VecF t = tanh(x);
    return {t, 1.0f - t * t};
  }
};

template <typename F, bool WithDerivative, typename T>
void map(const T* x, T* y, T* derivative, int64_t n) {
  const int64_t vectors = n / kLanes;
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t i = 0; i < vectors; ++i) {
    const Pair f = F::at(load(x + i * kLanes));
    store(y + i * kLanes, f.value);
    if (WithDerivative) store(derivative + i * kLanes, f.derivative);
  }
  const int64_t done = vectors * kLanes;
  if (const int rest = static_cast<int>(n - done)) {
    const Pair f = F::at(load_part(x + done, rest));
    store_part(y + done, f.value, rest);
    if (WithDerivative) store_part(derivative + done, f.derivative, rest);
  }
}

template <typename F, typename T>
void map(const T* x, T* y, T* derivative, int64_t n) {
  if (derivative) return map<F, true>(x, y, derivative, n);
  map<F, false>(x, y, derivative, n);
}

}  // namespace

template <typename T>
void activation(Activation kind, const T* x, T* y, T* derivative, int64_t n) {
  switch (kind) {
    case Activation::kGelu:
      return map<Gelu>(x, y, derivative, n);
    case Activation::kGeluTanh:
      return map<GeluTanh>(x, y, derivative, n);
    case Activation::kRelu:
      return map<Relu>(x, y, derivative, n);
    case Activation::kSilu:
      return map<Silu>(x, y, derivative, n);
    case Activation::kTanh:
      return map<Tanh>(x, y, derivative, n);
  }
}

template <typename T>
void multiply(const T* a, const T* b, T* y, int64_t n) {
  const int64_t vectors = n / kLanes;
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t i = 0; i < vectors; ++i) store(y + i * kLanes, load(a + i * kLanes) * load(b + i * kLanes));
  for (int64_t i = vectors * kLanes; i < n; ++i) set(y[i], to_float(a[i]) * to_float(b[i]));
}

template void activation(Activation, const float*, float*, float*, int64_t);
template void activation(Activation, const Bfloat16*, Bfloat16*, Bfloat16*, int64_t);
template void multiply(const float*, const float*, float*, int64_t);
template void multiply(const Bfloat16*, const Bfloat16*, Bfloat16*, int64_t);

}  // namespace msplora::kernels::MSPLORA_ISA
