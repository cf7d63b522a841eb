#include "kernels/cpu/activation_functions.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

template <typename F, bool kDerivatives, typename T>
void run(const GatedActivation<T>& op) {
#pragma omp parallel for schedule(static) if (op.rows * op.width > kParallelElements)
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t first = row * op.stride;
    for (int64_t i = 0; i < op.width; i += kLanes) {
      const int n = lanes_from(i, op.width);
      const Pair f = F::at(load_some(op.gate + first + i, n));
      const VecF up = load_some(op.up + first + i, n);
      store_some(op.y + row * op.width + i, f.value * up, n);
      if (!kDerivatives) continue;
      store_some(op.by_gate + first + i, up * f.derivative, n);
      store_some(op.by_up + first + i, f.value, n);
    }
  }
}

}  // namespace

template <typename T>
void gated_activation(const GatedActivation<T>& op) {
  with_function<T>(op.activation, [&]<typename F> {
    if (op.by_gate) return run<F, true>(op);
    run<F, false>(op);
  });
}

template <typename T>
void gated_activation_backward(const GatedActivationBackward<T>& op) {
#pragma omp parallel for schedule(static) if (op.rows * op.width > kParallelElements)
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t first = row * op.stride;
    for (int64_t i = 0; i < op.width; i += kLanes) {
      const int n = lanes_from(i, op.width);
      const VecF dy = load_some(op.dy + row * op.width + i, n);
      store_some(op.d_gate + first + i, dy * load_some(op.by_gate + first + i, n), n);
      store_some(op.d_up + first + i, dy * load_some(op.by_up + first + i, n), n);
    }
  }
}

MSPLORA_DEFINED(gated_activation, GatedActivation)
MSPLORA_DEFINED(gated_activation_backward, GatedActivationBackward)

}  // namespace msplora::kernels::MSPLORA_ISA
