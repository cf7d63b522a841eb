#include "kernels/cpu/activation_functions.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

template <typename F, bool WithDerivative, typename T>
void map(const Activate<T>& op) {
  const T* const x = op.x;
  T *const y = op.y, *const derivative = op.derivative;
  const int64_t n = op.n, vectors = op.n / kLanes;
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
void map(const Activate<T>& op) {
  if (op.derivative) return map<F, true>(op);
  map<F, false>(op);
}

}  // namespace

template <typename T>
void activate(const Activate<T>& op) {
  with_function<T>(op.kind, [&]<typename F> { map<F>(op); });
}

template <typename T>
void multiply(const Multiply<T>& op) {
  const T *const a = op.a, *const b = op.b;
  T* const y = op.y;
  const int64_t n = op.n;
  const int64_t vectors = n / kLanes;
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t i = 0; i < vectors; ++i) store(y + i * kLanes, load(a + i * kLanes) * load(b + i * kLanes));
  for (int64_t i = vectors * kLanes; i < n; ++i) set(y[i], to_float(a[i]) * to_float(b[i]));
}

MSPLORA_DEFINED(activate, Activate)
MSPLORA_DEFINED(multiply, Multiply)

}  // namespace msplora::kernels::MSPLORA_ISA
