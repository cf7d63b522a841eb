#pragma once

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/decoder_table.h"

namespace msplora::kernels::MSPLORA_ISA {

template <typename T>
void residual_rms_norm(const ResidualRmsNorm<T>& op);
template <typename T>
void residual_rms_norm_backward(const ResidualRmsNormBackward<T>& op);
template <typename T>
void rotary(const Rotary<T>& op);
template <typename T>
void swiglu(const SwiGlu<T>& op);
template <typename T>
void swiglu_backward(const SwiGluBackward<T>& op);
template <typename T>
void cross_entropy_rows(const CrossEntropyRows<T>& op);

/// The elements that are left of `n` from `i` on, a whole vector at most.
MSPLORA_INLINE int lanes_from(int64_t i, int64_t n) {
  return n - i < kLanes ? static_cast<int>(n - i) : kLanes;
}
template <typename T>
MSPLORA_INLINE VecF load_some(const T* p, int n) {
  return n == kLanes ? load(p) : load_part(p, n);
}
template <typename T>
MSPLORA_INLINE void store_some(T* p, VecF v, int n) {
  if (n == kLanes) {
    store(p, v);
  } else {
    store_part(p, v, n);
  }
}

MSPLORA_INLINE VecF logistic(VecF x) {
  return 1.0f / (1.0f + exp(-x));
}

}  // namespace msplora::kernels::MSPLORA_ISA
