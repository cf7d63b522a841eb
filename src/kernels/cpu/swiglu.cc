#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {

template <typename T>
void swiglu(const SwiGlu<T>& op) {
#pragma omp parallel for schedule(static) if (op.rows * op.width > kParallelElements)
  for (int64_t row = 0; row < op.rows; ++row) {
    const T* gate = op.gate + row * op.gate_stride;
    const T* up = op.up + row * op.up_stride;
    T* y = op.y + row * op.y_stride;
    for (int64_t i = 0; i < op.width; i += kLanes) {
      const int n = lanes_from(i, op.width);
      const VecF g = load_some(gate + i, n);
      store_some(y + i, g * logistic(g) * load_some(up + i, n), n);
    }
  }
}

// d silu(g) / dg = σ(g) (1 + g (1 - σ(g))).
template <typename T>
void swiglu_backward(const SwiGluBackward<T>& op) {
  const SwiGlu<T>& f = op.forward;
#pragma omp parallel for schedule(static) if (f.rows * f.width > kParallelElements)
  for (int64_t row = 0; row < f.rows; ++row) {
    const T* gate = f.gate + row * f.gate_stride;
    const T* up = f.up + row * f.up_stride;
    const T* dy = op.dy + row * f.y_stride;
    T* d_gate = op.d_gate + row * f.gate_stride;
    T* d_up = op.d_up + row * f.up_stride;
    for (int64_t i = 0; i < f.width; i += kLanes) {
      const int n = lanes_from(i, f.width);
      const VecF g = load_some(gate + i, n), u = load_some(up + i, n), d = load_some(dy + i, n);
      const VecF s = logistic(g);
      store_some(d_gate + i, d * u * (s * (1.0f + g * (1.0f - s))), n);
      store_some(d_up + i, d * (g * s), n);
    }
  }
}

MSPLORA_DEFINED(swiglu, SwiGlu)
MSPLORA_DEFINED(swiglu_backward, SwiGluBackward)

}  // namespace msplora::kernels::MSPLORA_ISA
