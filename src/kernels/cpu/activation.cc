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

struct Gelu {
  static VecF value(VecF x) {
    VecF gauss;
    return 0.5f * x * (1.0f + erf(x * 0.70710678118654752f, &gauss));
  }
  static VecF derivative(VecF x) {
    VecF gauss;
    const VecF cdf = 0.5f * (1.0f + erf(x * 0.70710678118654752f, &gauss));
    return cdf + x * gauss * 0.3989422804014327f;  // 1 / sqrt(2 pi)
  }
};

struct GeluTanh {
  static VecF value(VecF x) {
    return 0.5f * x * (1.0f + tanh(kTanhCoefficient * (x + 0.044715f * x * x * x)));
  }
  static VecF derivative(VecF x) {
    const VecF t = tanh(kTanhCoefficient * (x + 0.044715f * x * x * x));
    const VecF inner = kTanhCoefficient * (1.0f + 3.0f * 0.044715f * x * x);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
  }
};

struct Relu {
  // Written so that NaN passes.
  static VecF value(VecF x) { return select(x < 0.0f, splat(0.0f), x); }
  static VecF derivative(VecF x) { return select(x > 0.0f, splat(1.0f), splat(0.0f)); }
};

struct Silu {
  static VecF value(VecF x) { return x * sigmoid(x); }
  static VecF derivative(VecF x) {
    const VecF s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
  }
};

struct Tanh {
  static VecF value(VecF x) { return tanh(x); }
  static VecF derivative(VecF x) {
    const VecF t = tanh(x);
    return 1.0f - t * t;
  }
};

template <typename F, typename T>
void map_forward(const T* x, T* y, int64_t n) {
  const int64_t vectors = n / kLanes;
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t i = 0; i < vectors; ++i) store(y + i * kLanes, F::value(load(x + i * kLanes)));
  const int64_t done = vectors * kLanes;
  if (const int rest = static_cast<int>(n - done))
    store_part(y + done, F::value(load_part(x + done, rest)), rest);
}

template <typename F, typename T>
void map_backward(const T* x, const T* dy, T* dx, int64_t n) {
  const int64_t vectors = n / kLanes;
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t i = 0; i < vectors; ++i)
    store(dx + i * kLanes, load(dy + i * kLanes) * F::derivative(load(x + i * kLanes)));
  const int64_t done = vectors * kLanes;
  if (const int rest = static_cast<int>(n - done))
    store_part(dx + done, load_part(dy + done, rest) * F::derivative(load_part(x + done, rest)), rest);
}

}  // namespace

template <typename T>
void activation(Activation kind, const T* x, T* y, int64_t n) {
  switch (kind) {
    case Activation::kGelu:
      return map_forward<Gelu>(x, y, n);
    case Activation::kGeluTanh:
      return map_forward<GeluTanh>(x, y, n);
    case Activation::kRelu:
      return map_forward<Relu>(x, y, n);
    case Activation::kSilu:
      return map_forward<Silu>(x, y, n);
    case Activation::kTanh:
      return map_forward<Tanh>(x, y, n);
  }
}

template <typename T>
void activation_backward(Activation kind, const T* x, const T* dy, T* dx, int64_t n) {
  switch (kind) {
    case Activation::kGelu:
      return map_backward<Gelu>(x, dy, dx, n);
    case Activation::kGeluTanh:
      return map_backward<GeluTanh>(x, dy, dx, n);
    case Activation::kRelu:
      return map_backward<Relu>(x, dy, dx, n);
    case Activation::kSilu:
      return map_backward<Silu>(x, dy, dx, n);
    case Activation::kTanh:
      return map_backward<Tanh>(x, dy, dx, n);
  }
}

template void activation(Activation, const float*, float*, int64_t);
template void activation(Activation, const Bfloat16*, Bfloat16*, int64_t);
template void activation_backward(Activation, const float*, const float*, float*, int64_t);
template void activation_backward(Activation, const Bfloat16*, const Bfloat16*, Bfloat16*, int64_t);

}  // namespace msplora::kernels::MSPLORA_ISA
