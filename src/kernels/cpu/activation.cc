#include "kernels/cpu/activation_functions.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

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
      return map<GeluFor<T>>(x, y, derivative, n);
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
