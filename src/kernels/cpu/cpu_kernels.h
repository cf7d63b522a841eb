#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/thread_errors.h"

namespace msplora::kernels::MSPLORA_ISA {

/// Rows that a thread takes at once where rows are independent: a thread that is held up takes fewer.
inline constexpr int64_t kRowsOfATask = 64;

/// Below this many elements a parallel region costs more than it saves.
inline constexpr int64_t kParallelElements = 1 << 14;

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

#define MSPLORA_KERNEL(name, Op) \
  template <typename T>          \
  void name(const Op<T>& op);
MSPLORA_KERNELS
#undef MSPLORA_KERNEL

/// At the end of the source that defines the kernel.
#define MSPLORA_DEFINED(name, Op)       \
  template void name(const Op<float>&); \
  template void name(const Op<Bfloat16>&);

}  // namespace msplora::kernels::MSPLORA_ISA
