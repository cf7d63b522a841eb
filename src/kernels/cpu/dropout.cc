#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/mask.h"

namespace msplora::kernels::MSPLORA_ISA {

template <typename T>
void dropout(const Dropout<T>& op) {
  const int64_t n = op.n;
  const T* const x = op.x;
  T* const y = op.y;
  constexpr int64_t kChunk = 4 * kMaskBlock;
  const float scale = static_cast<float>(op.mask.scale());
  const int64_t chunks = (n + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    uint64_t words[8];
    const int64_t begin = chunk * kChunk;
    const int count = static_cast<int>(n - begin < kChunk ? n - begin : kChunk);
    const MaskBits bits = draw_row(op.mask, begin, count, words);
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) store(y + begin + i, keep(load(x + begin + i) * scale, bits, i));
    if (i < count)
      store_part(y + begin + i, keep(load_part(x + begin + i, count - i) * scale, bits, i), count - i);
  }
}

MSPLORA_DEFINED(dropout, Dropout)

}  // namespace msplora::kernels::MSPLORA_ISA
