#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {

template <typename T>
void dropout(const T* x, T* y, int64_t n, DropoutMask mask) {
  const uint32_t threshold = mask.threshold();
  const float scale = static_cast<float>(mask.scale());
  const int64_t blocks = (n + 127) / 128;
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t block = 0; block < blocks; ++block) {
    alignas(64) uint16_t numbers[128];
    philox_block(mask.key, static_cast<uint64_t>(block), numbers);
    const int64_t begin = block * 128;
    const int count = static_cast<int>(n - begin < 128 ? n - begin : 128);
    int i = 0;
    for (; i + kLanes <= count; i += kLanes)
      store(y + begin + i, load(x + begin + i) * mask_factors(numbers + i, threshold, scale));
    if (i < count)
      store_part(y + begin + i,
                 load_part(x + begin + i, count - i) * mask_factors(numbers + i, threshold, scale),
                 count - i);
  }
}

template void dropout(const float*, float*, int64_t, DropoutMask);
template void dropout(const Bfloat16*, Bfloat16*, int64_t, DropoutMask);

}  // namespace msplora::kernels::MSPLORA_ISA
