#pragma once

#include <cstdint>

#include "msplora/kernels/kernels.h"

/// Products with a matrix that stays the same over many calls, under the rules of kernels.h (float and
/// Bfloat16; sums in float, in an order that does not depend on the number of threads).
namespace msplora::kernels {

/// The end of a low-rank update of some columns: y[:, column + j] += Σ_r z[:, r] up_t[r - begin, j] over the
/// ranks [begin, end).
struct GemmUpdate {
  int64_t begin = 0, end = 0;
  int64_t column = 0, width = 0;
  const float* up_t = nullptr;  // [end - begin, width]
};

/// y (+)= factor * (x W + z U + bias), or y = f(x W + z U + bias), with W packed by pack_gemm. Of Bfloat16
/// `inner` must be even.
template <typename T>
struct PackedGemm {
  int64_t rows = 0, inner = 0, width = 0;
  Isa isa = Isa::kPortable;     // that W was packed for
  const T* x = nullptr;         // [rows, inner]
  const T* packed = nullptr;    // W, [inner, width]
  const float* bias = nullptr;  // [width], or null

  /// z U: the updates, in rising columns and ranks, are added to the sums before these are rounded.
  const float* z = nullptr;  // [rows, rank]
  int64_t rank = 0;
  const GemmUpdate* updates = nullptr;
  int64_t num_updates = 0;

  const T* factor = nullptr;  // [rows, width], or null
  bool add = false;           // onto what y holds
  T* y = nullptr;             // [rows, width]

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
