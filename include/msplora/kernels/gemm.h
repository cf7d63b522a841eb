#pragma once

#include <cstdint>

#include "msplora/kernels/kernels.h"

/// Products with a matrix that stays the same over many calls, under the rules of kernels.h (float and
/// Bfloat16; sums in float, in an order that does not depend on the number of threads).
namespace msplora::kernels {

/// y (+)= factor * (x W + bias), or y = f(x W + bias), with W packed by pack_gemm. Of Bfloat16 `inner` must
/// be even.
template <typename T>
struct PackedGemm {
  int64_t rows = 0, inner = 0, width = 0;
  Isa isa = Isa::kPortable;     // that W was packed for
  const T* x = nullptr;         // [rows, inner]
  const T* packed = nullptr;    // W, [inner, width]
  const float* bias = nullptr;  // [width], or null
  const T* factor = nullptr;    // [rows, width], or null
  bool add = false;             // onto what y holds
  T* y = nullptr;               // [rows, width]

  /// With `is_activated` (then without factor and add), f is `activation`, and f' goes to `derivative` [rows,
  /// width] (null: not needed).
  bool is_activated = false;
  Activation activation = Activation::kGelu;
  T* derivative = nullptr;
};
template <typename T>
void packed_gemm(const PackedGemm<T>& op);

/// Elements that W takes when packed for `isa`: its own, rounded up to whole panels of columns.
template <typename T>
int64_t packed_gemm_elements(Isa isa, int64_t inner, int64_t width);

/// Packs W: element (k, j) is w[k * row_stride + j * column_stride].
template <typename T>
void pack_gemm(Isa isa, const T* w, int64_t inner, int64_t width, int64_t row_stride, int64_t column_stride,
               T* packed);

/// Whether these products are the best choice on this processor: not without SIMD units that they know, and
/// not for Bfloat16 where the processor has matrix units (AMX), which they do not use.
template <typename T>
bool prefers_packed_gemm();

}  // namespace msplora::kernels
