#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {

template <typename T>
void embedding_sum(const EmbeddingSum<T>& op) {
#pragma omp parallel for schedule(static) if (op.rows * op.width > kParallelElements)
  for (int64_t row = 0; row < op.rows; ++row) {
    const T* from[EmbeddingSum<T>::kMost];
    for (int p = 0; p < op.parts; ++p) from[p] = op.tables[p] + (op.ids[p] ? op.ids[p][row] : 0) * op.width;
    T* y = op.y + row * op.width;
    int64_t i = 0;
    for (; i + kLanes <= op.width; i += kLanes) {
      VecF sum = load(from[0] + i);
      for (int p = 1; p < op.parts; ++p) sum += load(from[p] + i);
      store(y + i, sum);
    }
    for (; i < op.width; ++i) {
      float sum = to_float(from[0][i]);
      for (int p = 1; p < op.parts; ++p) sum += to_float(from[p][i]);
      set(y[i], sum);
    }
  }
}

MSPLORA_DEFINED(embedding_sum, EmbeddingSum)

}  // namespace msplora::kernels::MSPLORA_ISA
