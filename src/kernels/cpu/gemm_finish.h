#pragma once

// What happens to the sums of packed products on their way to y (PackedGemm).
#include "kernels/cpu/activation_functions.h"
#include "kernels/cpu/gemm_panel.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

struct Identity {
  static inline __attribute__((always_inline)) Pair at(VecF x) { return {x, splat(1.0f)}; }
};

// What happens to sums on their way to y is said by template arguments, so that no tile branches on it.

// One vector of sums on its way to y and to the derivative.
template <bool kBias, bool kFactor, bool kAdd, typename F, typename T>
MSPLORA_INLINE Pair finished(const PackedGemm<T>& op, VecF value, int64_t column, int64_t at, int n) {
  if (kBias) value += load_some(op.bias + column, n);
  if (kFactor) value *= load_some(op.factor + at, n);
  if (kAdd) value += load_some(op.y + at, n);
  return F::at(value);
}

// Whether rows of panels are whole cache lines, which can pass by the caches.
#if defined(MSPLORA_ISA_amx)
template <typename T>
inline constexpr bool kHasLines = true;

MSPLORA_INLINE void store_line(float* to, const VecF (&v)[kVectors], bool is_streamed) {
  for (int i = 0; i < kVectors; ++i) {
    if (is_streamed) {
      _mm512_stream_ps(to + i * kLanes, (__m512)v[i]);
    } else {
      store(to + i * kLanes, v[i]);
    }
  }
}
MSPLORA_INLINE void store_line(Bfloat16* to, const VecF (&v)[kVectors], bool is_streamed) {
  const __m512i line = (__m512i)_mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]);
  if (is_streamed) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), line);
  } else {
    _mm512_storeu_si512(to, line);
  }
}
#else
template <typename T>
inline constexpr bool kHasLines = false;
#endif

// Sums -> y, rows [row, row + rows) and columns [column, column + columns). `is_streamed`: lines are not read
// before they are written and stay in no cache; arrays begin with a line.
template <bool kBias, bool kFactor, bool kAdd, bool kDerivative, typename F, typename T>
void finish(const PackedGemm<T>& call, const float* sums, int64_t row, int64_t rows, int64_t column,
            int64_t columns, [[maybe_unused]] bool is_streamed) {
  const PackedGemm<T> op = call;  // stores cannot change it
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = (row + i) * op.width + column;
    const float* from = sums + i * kPanel;
    if (columns == kPanel) {
      [[maybe_unused]] VecF values[kVectors], derivatives[kVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        const int j = v * kLanes;
        const Pair f = finished<kBias, kFactor, kAdd, F>(op, load(from + j), column + j, at + j, kLanes);
        if constexpr (kHasLines<T>) {
          values[v] = f.value, derivatives[v] = f.derivative;
        } else {
          store(op.y + at + j, f.value);
          if (kDerivative) store(op.derivative + at + j, f.derivative);
        }
      }
      if constexpr (kHasLines<T>) {
        store_line(op.y + at, values, is_streamed);
        if (kDerivative) store_line(op.derivative + at, derivatives, is_streamed);
      }
      continue;
    }
    for (int64_t j = 0; j < columns; j += kLanes) {
      const int n = lanes_from(j, columns);
      const Pair f = finished<kBias, kFactor, kAdd, F>(op, load(from + j), column + j, at + j, n);
      store_some(op.y + at + j, f.value, n);
      if (kDerivative) store_some(op.derivative + at + j, f.derivative, n);
    }
  }
}

template <typename T>
using Finish = void (*)(const PackedGemm<T>&, const float*, int64_t, int64_t, int64_t, int64_t, bool);

template <bool kBias, typename T>
Finish<T> plain_finish(const PackedGemm<T>& op) {
  if (op.factor) {
    return op.add ? &finish<kBias, true, true, false, Identity, T>
                  : &finish<kBias, true, false, false, Identity, T>;
  }
  return op.add ? &finish<kBias, false, true, false, Identity, T>
                : &finish<kBias, false, false, false, Identity, T>;
}

template <typename F, typename T>
Finish<T> activated_finish(const PackedGemm<T>& op) {
  if (op.bias) {
    return op.derivative ? &finish<true, false, false, true, F, T> : &finish<true, false, false, false, F, T>;
  }
  return op.derivative ? &finish<false, false, false, true, F, T> : &finish<false, false, false, false, F, T>;
}

template <typename T>
Finish<T> finish_of(const PackedGemm<T>& op) {
  if (!op.is_activated) return op.bias ? plain_finish<true>(op) : plain_finish<false>(op);
  switch (op.activation) {
    case Activation::kGelu:
      return activated_finish<GeluFor<T>>(op);
    case Activation::kGeluTanh:
      return activated_finish<GeluTanh>(op);
    case Activation::kRelu:
      return activated_finish<Relu>(op);
    case Activation::kSilu:
      return activated_finish<Silu>(op);
    case Activation::kTanh:
      return activated_finish<Tanh>(op);
  }
  return plain_finish<true>(op);
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
