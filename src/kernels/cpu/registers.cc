// Products of what lies in registers, as many at a time as the innermost loop of packed products has: nothing
// but the instruction limits them.
#include <type_traits>

#include "kernels/cpu/gemm_panel.h"
#include "kernels/cpu/registers.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kRegisters = kTileRows * kVectors;

// The compiler must not know what it holds.
MSPLORA_INLINE void touch(VecF& v) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(v));
#elif defined(__SSE2__)
  asm volatile("" : "+x"(v));
#else
  asm volatile("" : "+m"(v));
#endif
}

template <typename T>
MSPLORA_INLINE void multiply_add(VecF& sum, VecF a, VecF b) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, Bfloat16>) {
    sum = (VecF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512)a, (__m512bh)(__m512)b);
    return;
  }
#endif
  sum += a * b;
}

}  // namespace

template <typename T>
int64_t multiply_registers(int64_t rounds) {
  VecF sums[kRegisters] = {}, a = {}, b = {};
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kRegisters; ++i) {
      multiply_add<T>(sums[i], a, b);
      touch(sums[i]), touch(a), touch(b);
    }
  }
  return rounds * kRegisters * kLanes * kStep<T> * 2;
}

template int64_t multiply_registers<float>(int64_t);
template int64_t multiply_registers<Bfloat16>(int64_t);

}  // namespace msplora::kernels::MSPLORA_ISA
