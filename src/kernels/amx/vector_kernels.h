#pragma once

// The kernels of AVX512_BF16, for what is not for tiles.
#include "msplora/kernels/kernels.h"

namespace msplora::kernels::avx512bf16 {
#define MSPLORA_KERNEL(name, Op) \
  template <typename T>          \
  void name(const Op<T>& op);
MSPLORA_KERNELS
#undef MSPLORA_KERNEL
}  // namespace msplora::kernels::avx512bf16

namespace msplora::kernels::amx {

/// Multiplies floats: exact() in float32, run<kParts>() with so many numbers in bfloat16 for each.
template <typename Exact, typename Run>
inline __attribute__((always_inline)) void in_precision(Precision precision, const Exact& exact,
                                                        const Run& run) {
  switch (precision) {
    case Precision::kExact:
      return exact();
    case Precision::kHigh:
      return run.template operator()<3>();
    case Precision::kMedium:
      return run.template operator()<2>();
  }
}

}  // namespace msplora::kernels::amx
