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

// A vector of sums on its way to y, before the activation.
template <bool kBias, bool kFactor, bool kAdd, typename T>
MSPLORA_INLINE VecF changed(const PackedGemm<T>& op, VecF value, int64_t column, int64_t at, int n) {
  if (kBias) value += load_some(op.bias + column, n);
  if (kFactor) value *= load_some(op.factor + at, n);
  if (kAdd) value += load_some(op.y + at, n);
  return value;
}

// How rows of y leave.
enum class Leaving {
  kStored,
  kStreamed,  // as whole cache lines that are not read before they are written and stay in no cache
  kHeld,      // lines wait for those beside them
  kPaired,    // and are streamed with them: pairs of lines are written twice as fast
};
struct Lines {
  Leaving leaving = Leaving::kStored;
  Bfloat16* held = nullptr;  // [rows, kMost, kPanel]

  static constexpr int64_t kMost = 3;  // of a row and a panel
};

// Whether the sums of a gate are there when those of what it lets through end.
#if defined(MSPLORA_ISA_amx)
inline constexpr bool kKeepsGates = true;

// A row of a panel, the one at `at` of those that lines are held of.
MSPLORA_INLINE void store_panel(float* to, const VecF (&v)[kVectors], const Lines& lines, int64_t) {
  for (int i = 0; i < kVectors; ++i) {
    if (lines.leaving == Leaving::kStored) {
      store(to + i * kLanes, v[i]);
    } else {
      _mm512_stream_ps(to + i * kLanes, (__m512)v[i]);
    }
  }
}
MSPLORA_INLINE void store_panel(Bfloat16* to, const VecF (&v)[kVectors], const Lines& lines, int64_t at) {
  const __m512i line = (__m512i)_mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]);
  if (lines.leaving == Leaving::kStored) return _mm512_storeu_si512(to, line);
  Bfloat16* const held = lines.held + at * kPanel;
  if (lines.leaving == Leaving::kHeld) return _mm512_store_si512(held, line);
  if (lines.leaving == Leaving::kPaired) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to - kPanel), _mm512_load_si512(held));
  }
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), line);
}
#else
inline constexpr bool kKeepsGates = false;

template <typename T>
MSPLORA_INLINE void store_panel(T* to, const VecF (&v)[kVectors], const Lines&, int64_t) {
  for (int i = 0; i < kVectors; ++i) store(to + i * kLanes, v[i]);
}
#endif

// Rows of whole panels that end between products of tiles: as many at a time, without a branch that could be
// foreseen wrongly. Units that wait for the right way are idle.
inline constexpr int kStepRows = 2;

// A row of a whole panel, `at` numbers into y.
template <bool kBias, bool kFactor, bool kAdd, bool kDerivative, typename F, typename T>
MSPLORA_INLINE void finish_row(const PackedGemm<T>& op, const float* sums, int64_t column, int64_t at,
                               const Lines& lines, int64_t line) {
  VecF values[kVectors], derivatives[kVectors];
#pragma GCC unroll 3
  for (int v = 0; v < kVectors; ++v) {
    const int j = v * kLanes;
    const Pair f = F::at(changed<kBias, kFactor, kAdd>(op, load(sums + j), column + j, at + j, kLanes));
    values[v] = f.value, derivatives[v] = f.derivative;
  }
  store_panel(op.y + at, values, lines, line);
  if (kDerivative) store_panel(op.derivative + at, derivatives, lines, line + 1);
}

// Sums -> y, rows [row, row + rows) and columns [column, column + columns). `kRows`: rows of a whole panel if
// not 0.
template <bool kBias, bool kFactor, bool kAdd, bool kDerivative, typename F, int kRows, typename T>
void finish(const PackedGemm<T>& call, const float* sums, const float*, int64_t row, int64_t rows,
            int64_t column, int64_t columns, const Lines& leaving) {
  const PackedGemm<T> op = call;  // stores cannot change it
  const Lines lines = leaving;
  if constexpr (kRows > 0) rows = kRows;
#pragma GCC unroll 2
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = (row + i) * op.width + column;
    const float* const from = sums + i * kPanel;
    if (kRows > 0 || columns == kPanel) {
      finish_row<kBias, kFactor, kAdd, kDerivative, F>(op, from, column, at, lines, i * Lines::kMost);
      continue;
    }
    for (int64_t j = 0; j < columns; j += kLanes) {
      const int n = lanes_from(j, columns);
      const Pair f = F::at(changed<kBias, kFactor, kAdd>(op, load(from + j), column + j, at + j, n));
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
template <bool kBias, typename F, int kRows, typename T>
void finish_gated(const PackedGemm<T>& call, const float* sums, [[maybe_unused]] const float* gates,
                  int64_t row, int64_t rows, int64_t column, int64_t, const Lines& leaving) {
  const PackedGemm<T> op = call;
  const Lines lines = leaving;
  const int64_t half = op.width / 2, first = column - half, left = op.gated_width - first;
  if constexpr (kRows > 0) rows = kRows;
#pragma GCC unroll 2
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
    store_panel(by_gate, by_gates, lines, i * Lines::kMost + 1);
    store_panel(by_up, by_ups, lines, i * Lines::kMost + 2);
    if (left >= kPanel) {
      store_panel(y, values, lines, i * Lines::kMost);
    } else {
      for (int v = 0; v < kVectors && v * kLanes < left; ++v)
        store_some(y + v * kLanes, values[v], lanes_from(v * kLanes, left));
    }
  }
}

// The gradient of what a gated product gives, for both halves (PackedGemm::half_width).
template <int kRows, typename T>
void finish_halves(const PackedGemm<T>& call, const float* sums, const float*, int64_t row, int64_t rows,
                   int64_t column, int64_t, const Lines& leaving) {
  const PackedGemm<T> op = call;
  const Lines lines = leaving;
  const int64_t behind = column + kPanel < op.width ? 0 : op.half_width - column - kPanel;
  if constexpr (kRows > 0) rows = kRows;
#pragma GCC unroll 2
  for (int64_t i = 0; i < rows; ++i) {
    VecF values[kVectors];
    for (int64_t at = 2 * (row + i) * op.half_width + column, half = 0; half < 2;
         ++half, at += op.half_width) {
      for (int64_t j = 0; j < behind; ++j) op.y[at + kPanel + j] = T{};
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v)
        values[v] = load(sums + i * kPanel + v * kLanes) * load(op.factor + at + v * kLanes);
      store_panel(op.y + at, values, lines, i * Lines::kMost + half);
    }
  }
}

template <typename T>
using Finish = void (*)(const PackedGemm<T>&, const float*, const float*, int64_t, int64_t, int64_t, int64_t,
                        const Lines&);

template <bool kBias, int kRows, typename T>
Finish<T> plain_finish(const PackedGemm<T>& op) {
  if (op.factor) {
    return op.add ? &finish<kBias, true, true, false, Identity, kRows, T>
                  : &finish<kBias, true, false, false, Identity, kRows, T>;
  }
  return op.add ? &finish<kBias, false, true, false, Identity, kRows, T>
                : &finish<kBias, false, false, false, Identity, kRows, T>;
}

template <typename F, int kRows, typename T>
Finish<T> activated_finish(const PackedGemm<T>& op) {
  if (op.gated_width > 0)
    return op.bias ? &finish_gated<true, F, kRows, T> : &finish_gated<false, F, kRows, T>;
  if (op.bias) {
    return op.derivative ? &finish<true, false, false, true, F, kRows, T>
                         : &finish<true, false, false, false, F, kRows, T>;
  }
  return op.derivative ? &finish<false, false, false, true, F, kRows, T>
                       : &finish<false, false, false, false, F, kRows, T>;
}

template <int kRows = 0, typename T>
Finish<T> finish_of(const PackedGemm<T>& op) {
  if (op.half_width > 0) return &finish_halves<kRows, T>;
  if (!op.is_activated) return op.bias ? plain_finish<true, kRows>(op) : plain_finish<false, kRows>(op);
  return with_function<T>(op.activation, [&]<typename F> { return activated_finish<F, kRows>(op); });
}

// The product as a half of the panels sees it (gate_of), and its end.
template <typename T>
struct HalfEnd {
  PackedGemm<T> op;
  Finish<T> finish;

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
