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

// Whether rows of panels are whole cache lines, which can pass by the caches; and whether the sums of a gate
// are there when those of what it lets through end.
#if defined(MSPLORA_ISA_amx)
inline constexpr bool kKeepsGates = true;
template <typename T>
inline constexpr bool kHasLines = true;

MSPLORA_INLINE void store_panel(float* to, const VecF (&v)[kVectors], bool is_streamed) {
  for (int i = 0; i < kVectors; ++i) {
    if (is_streamed) {
      _mm512_stream_ps(to + i * kLanes, (__m512)v[i]);
    } else {
      store(to + i * kLanes, v[i]);
    }
  }
}
MSPLORA_INLINE void store_panel(Bfloat16* to, const VecF (&v)[kVectors], bool is_streamed) {
  const __m512i line = (__m512i)_mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]);
  if (is_streamed) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), line);
  } else {
    _mm512_storeu_si512(to, line);
  }
}
#else
inline constexpr bool kKeepsGates = false;
template <typename T>
inline constexpr bool kHasLines = false;

template <typename T>
MSPLORA_INLINE void store_panel(T* to, const VecF (&v)[kVectors], bool) {
  for (int i = 0; i < kVectors; ++i) store(to + i * kLanes, v[i]);
}
#endif

// Sums -> y, rows [row, row + rows) and columns [column, column + columns). `is_streamed`: lines are not read
// before they are written and stay in no cache; arrays begin with a line.
template <bool kBias, bool kFactor, bool kAdd, bool kDerivative, typename F, typename T>
void finish(const PackedGemm<T>& call, const float* sums, const float*, int64_t row, int64_t rows,
            int64_t column, int64_t columns, [[maybe_unused]] bool is_streamed) {
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
        store_panel(op.y + at, values, is_streamed);
        if (kDerivative) store_panel(op.derivative + at, derivatives, is_streamed);
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

// A gated product's end has two parts, unless the sums of gates are kept. Panels of the gate come first and
// leave its values, in the type of y, in their half of `derivative`, as this product says.
template <typename T>
PackedGemm<T> gate_of(const PackedGemm<T>& op) {
  PackedGemm<T> gate = op;
  gate.y = op.derivative;
  gate.derivative = nullptr;
  gate.is_activated = false;
  gate.gated_width = 0;
  return gate;
}

template <typename T>
MSPLORA_INLINE VecF rounded(VecF value) {
  if constexpr (std::is_same_v<T, float>) return value;
  T numbers[kLanes];
  store(numbers, value);
  return load(numbers);
}

// Panels of what it lets through find them there, or get its sums.
template <bool kBias, typename F, typename T>
void finish_gated(const PackedGemm<T>& call, const float* sums, [[maybe_unused]] const float* gates,
                  int64_t row, int64_t rows, int64_t column, int64_t, bool is_streamed) {
  const PackedGemm<T> op = call;
  const int64_t half = op.width / 2, first = column - half, left = op.gated_width - first;
  for (int64_t i = 0; i < rows; ++i) {
    T* const by_up = op.derivative + (row + i) * op.width + column;
    T *const by_gate = by_up - half, *const y = op.y + (row + i) * op.gated_width + first;
    VecF values[kVectors], by_gates[kVectors], by_ups[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      const int j = v * kLanes;
      VecF up = load(sums + i * kPanel + j);
      if (kBias) up += load(op.bias + column + j);
      VecF gate;
      if constexpr (kKeepsGates) {
        gate = load(gates + i * kPanel + j);
        if (kBias) gate += load(op.bias + first + j);
        gate = rounded<T>(gate);
      } else {
        gate = load(by_gate + j);
      }
      const Pair f = F::at(gate);
      values[v] = f.value * up, by_gates[v] = f.derivative * up, by_ups[v] = f.value;
    }
    store_panel(by_gate, by_gates, is_streamed);
    store_panel(by_up, by_ups, is_streamed);
    if (left >= kPanel) {
      store_panel(y, values, is_streamed);
    } else {
      for (int v = 0; v < kVectors && v * kLanes < left; ++v)
        store_some(y + v * kLanes, values[v], lanes_from(v * kLanes, left));
    }
  }
}

// The gradient of what a gated product gives, for both halves (PackedGemm::half_width).
template <typename T>
void finish_halves(const PackedGemm<T>& call, const float* sums, const float*, int64_t row, int64_t rows,
                   int64_t column, int64_t, bool is_streamed) {
  const PackedGemm<T> op = call;
  const int64_t behind = column + kPanel < op.width ? 0 : op.half_width - column - kPanel;
  for (int64_t i = 0; i < rows; ++i) {
    VecF values[kVectors];
    for (int64_t at = 2 * (row + i) * op.half_width + column, half = 0; half < 2;
         ++half, at += op.half_width) {
      for (int64_t j = 0; j < behind; ++j) op.y[at + kPanel + j] = T{};
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v)
        values[v] = load(sums + i * kPanel + v * kLanes) * load(op.factor + at + v * kLanes);
      store_panel(op.y + at, values, is_streamed);
    }
  }
}

template <typename T>
using Finish = void (*)(const PackedGemm<T>&, const float*, const float*, int64_t, int64_t, int64_t, int64_t,
                        bool);

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
  if (op.gated_width > 0) return op.bias ? &finish_gated<true, F, T> : &finish_gated<false, F, T>;
  if (op.bias) {
    return op.derivative ? &finish<true, false, false, true, F, T> : &finish<true, false, false, false, F, T>;
  }
  return op.derivative ? &finish<false, false, false, true, F, T> : &finish<false, false, false, false, F, T>;
}

template <typename T>
Finish<T> finish_of(const PackedGemm<T>& op) {
  if (op.half_width > 0) return &finish_halves<T>;
  if (!op.is_activated) return op.bias ? plain_finish<true>(op) : plain_finish<false>(op);
  return with_function<T>(op.activation, [&]<typename F> { return activated_finish<F>(op); });
}

// The product as a half of the panels sees it (gate_of), and its end.
template <typename T>
struct HalfEnd {
  PackedGemm<T> op;
  Finish<T> finish;
  bool is_streamed = false;

  explicit HalfEnd(const PackedGemm<T>& of) : op(of), finish(finish_of(of)) {}
};

// Of all panels, or of the two halves of a gated product.
template <typename T>
struct Ends {
  HalfEnd<T> half[2];
  int64_t count;

  explicit Ends(const PackedGemm<T>& op)
      : half{HalfEnd<T>(op.gated_width > 0 ? gate_of(op) : op), HalfEnd<T>(op)},
        count(op.gated_width > 0 ? 2 : 1) {}
};

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
