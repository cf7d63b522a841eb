// Matrices of floats in panels of their parts in bfloat16 (operands.h): of every step of the inner dimension
// first the largest part, then the others.
#include "kernels/amx/operands.h"
#include "kernels/amx/vector_kernels.h"

namespace msplora::kernels::amx {
namespace {

// Where part 0 of element (k, column) lies among panels of `rows` rows; the next part is kStepOfPanel
// further.
template <int kParts>
MSPLORA_INLINE int64_t place(int64_t k, int64_t column, int64_t rows) {
  const int64_t step = column / kPanel * (rows / kInner) + k / kInner;
  return step * kParts * kStepOfPanel + k % kInner / 2 * kPanel * 2 + column % kPanel * 2 + k % 2;
}

template <int kParts>
void pack_panel(const PackGemm<float>& op, int64_t panel, Number* to) {
  const int64_t rows = whole_steps<Number>(op.inner), turned_rows = whole_steps<Number>(op.width);
  const auto* const transposed = reinterpret_cast<const Number*>(op.transposed);
  for (int64_t k = 0; k < rows; ++k) {
    for (int64_t column = panel * kPanel; column < (panel + 1) * kPanel; ++column) {
      Number parts[kParts] = {};
      if (k < op.inner && column < op.width) {
        if (transposed) {
          for (int part = 0; part < kParts; ++part)
            parts[part] = transposed[place<kParts>(column, k, turned_rows) + part * kStepOfPanel];
        } else {
          split(op.w[k * op.row_stride + column * op.column_stride], parts);
        }
      }
      for (int part = 0; part < kParts; ++part)
        to[place<kParts>(k, column, rows) + part * kStepOfPanel] = parts[part];
    }
  }
}

template <int kParts>
void pack(const PackGemm<float>& op) {
  const int64_t panels = ceil_div(op.width, kPanel);
  if (op.elements) *op.elements = panels * kPanel * whole_steps<Number>(op.inner) * kParts / 2;
  if (op.columns) *op.columns = panels * kPanel;
  if (op.packed == nullptr) return;
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < panels; ++panel)
    pack_panel<kParts>(op, panel, reinterpret_cast<Number*>(op.packed));
}

}  // namespace

template <>
void pack_gemm(const PackGemm<float>& op) {
  in_precision(
      op.precision, [&] { avx512bf16::pack_gemm(op); }, [&]<int kParts> { pack<kParts>(op); });
}

}  // namespace msplora::kernels::amx
