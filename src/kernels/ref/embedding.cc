#include "kernels/ref/reference.h"

namespace msplora::kernels::ref {

void embedding_sum(const EmbeddingSum<double>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    for (int64_t i = 0; i < op.width; ++i) {
      double sum = 0;
      for (int p = 0; p < op.parts; ++p) sum += op.tables[p][(op.ids[p] ? op.ids[p][row] : 0) * op.width + i];
      op.y[row * op.width + i] = sum;
    }
  }
}

}  // namespace msplora::kernels::ref
