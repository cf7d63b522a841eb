#include "kernels/ref/reference.h"

namespace msplora::kernels::ref {
namespace {

double update_at(const PackedGemm<double>& op, const GemmUpdate& update, int64_t row, int64_t column) {
  if (column < update.column || column >= update.column + update.width) return 0.0;
  double sum = 0.0;
  for (int64_t r = update.begin; r < update.end; ++r) {
    sum += double{op.z[row * op.rank + r]} *
           update.up_t[(r - update.begin) * update.width + column - update.column];
  }
  return sum;
}

double sum_at(const PackedGemm<double>& op, int64_t row, int64_t j) {
  double sum = op.bias ? op.bias[j] : 0.0;
  for (int64_t k = 0; k < op.inner; ++k) {
    const int64_t place = op.is_transposed ? j * op.inner + k : k * op.width + j;
    sum += op.x[row * op.inner + k] * op.packed[place];
  }
  for (int64_t u = 0; u < op.num_updates; ++u) sum += update_at(op, op.updates[u], row, j);
  return sum;
}

void gated_row(const PackedGemm<double>& op, int64_t row) {
  const int64_t half = op.width / 2;
  double* const derivative = op.derivative + row * op.width;
  for (int64_t j = 0; j < half; ++j) {
    const double gate = sum_at(op, row, j), up = sum_at(op, row, half + j);
    derivative[half + j] = activation(op.activation, gate);
    derivative[j] = up * activation_derivative(op.activation, gate);
    if (j < op.gated_width) op.y[row * op.gated_width + j] = derivative[half + j] * up;
  }
}

void row_of_halves(const PackedGemm<double>& op, int64_t row) {
  for (int64_t j = 0; j < op.half_width; ++j) {
    const double sum = j < op.width ? sum_at(op, row, j) : 0.0;
    for (const int64_t at : {2 * row * op.half_width + j, (2 * row + 1) * op.half_width + j})
      op.y[at] = sum * op.factor[at];
  }
}

}  // namespace

// Packed is W as it is, row by row.
void pack_gemm(const PackGemm<double>& op) {
  if (op.elements) *op.elements = op.inner * op.width;
  if (op.columns) *op.columns = op.width;
  for (int64_t k = 0; op.packed && k < op.inner; ++k) {
    for (int64_t j = 0; j < op.width; ++j) {
      op.packed[k * op.width + j] =
          op.transposed ? op.transposed[j * op.inner + k] : op.w[k * op.row_stride + j * op.column_stride];
    }
  }
}

void packed_gemm(const PackedGemm<double>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    if (op.gated_width > 0) {
      gated_row(op, row);
      continue;
    }
    if (op.half_width > 0) {
      row_of_halves(op, row);
      continue;
    }
    for (int64_t j = 0; j < op.width; ++j) {
      double sum = sum_at(op, row, j);
      const int64_t at = row * op.width + j;
      if (op.factor) sum *= op.factor[at];
      if (op.add) sum += op.y[at];
      op.y[at] = op.is_activated ? activation(op.activation, sum) : sum;
      if (op.is_activated && op.derivative) op.derivative[at] = activation_derivative(op.activation, sum);
    }
  }
}

}  // namespace msplora::kernels::ref
