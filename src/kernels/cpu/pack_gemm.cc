// Brings a matrix into the layout of gemm_panel.h.
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/gemm_panel.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

// Rows [first, steps) of a panel in steps of the inner dimension, and its columns from `column` on, element
// by element: kStep neighbours down each column, zero beyond W.
template <typename T>
void pack_elements(const PackGemm<T>& op, int64_t panel, int64_t first, int64_t column, int64_t end, T* to) {
  for (int64_t k = first; k < whole_steps<T>(op.inner) / kStep<T>; ++k) {
    for (int64_t j = column; j < end; ++j) {
      for (int64_t s = 0; s < kStep<T>; ++s) {
        const int64_t row = k * kStep<T> + s, at = panel * kPanel + j;
        T& element = to[(k * kPanel + j) * kStep<T> + s];
        element = T{};
        if (at < op.width && row < op.inner) element = op.w[row * op.row_stride + at * op.column_stride];
      }
    }
  }
}

// The same where the elements of a column are neighbours, in squares that are turned.
template <typename T>
void pack_columns(const PackGemm<T>& op, int64_t panel, T* to) {
  using V = TurnedUnit<T>;
  const int64_t left = op.width - panel * kPanel, columns = (left < kPanel ? left : kPanel) / kSide * kSide;
  const int64_t steps = op.inner / kStep<T> / kSide * kSide;
  for (int64_t j = 0; j < columns; j += kSide) {
    const T* from = op.w + (panel * kPanel + j) * op.column_stride;
    for (int64_t k = 0; k < steps; k += kSide) {
      V square[kSide];
      load_turned(reinterpret_cast<const char*>(from + k * kStep<T>),
                  op.column_stride * static_cast<int64_t>(sizeof(T)), square);
      for (int64_t i = 0; i < kSide; ++i)
        std::memcpy(to + ((k + i) * kPanel + j) * kStep<T>, &square[i], sizeof(V));
    }
    pack_elements(op, panel, steps, j, j + kSide, to);
  }
  pack_elements(op, panel, 0, columns, kPanel, to);
}

// A panel out of its packed transpose. What lies beyond its last row is not ours.
template <typename T>
void pack_turned(const PackGemm<T>& op, int64_t panel, T* to) {
  const int64_t column = panel * kPanel, rows = whole_steps<T>(op.inner), whole = rows / kPanel * kPanel;
  fill_from_transposed(op.transposed, op.inner, op.width, column, 0, whole, to);
  if (whole == rows) return;
  T rest[kPanel * kPanel];
  fill_from_transposed(op.transposed, op.inner, op.width, column, whole, kPanel, rest);
  std::memcpy(to + whole * kPanel, rest, sizeof(T) * static_cast<size_t>((rows - whole) * kPanel));
}

}  // namespace

template <typename T>
void pack_gemm(const PackGemm<T>& op) {
  const int64_t rows = whole_steps<T>(op.inner), panels = ceil_div(op.width, kPanel);
  if (op.elements) *op.elements = panels * kPanel * rows;
  if (op.columns) *op.columns = panels * kPanel;
  if (op.packed == nullptr) return;
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < panels; ++panel) {
    T* to = op.packed + panel * kPanel * rows;
    if (op.transposed) {
      pack_turned(op, panel, to);
    } else if (op.row_stride == 1) {
      pack_columns(op, panel, to);
    } else {
      pack_elements(op, panel, 0, 0, kPanel, to);
    }
  }
}

#if defined(MSPLORA_ISA_amx)
template void pack_gemm(const PackGemm<Bfloat16>&);  // of float: amx/pack_split.cc
#else
MSPLORA_DEFINED(pack_gemm, PackGemm)
#endif

}  // namespace msplora::kernels::MSPLORA_ISA
