#pragma once

#include "msplora/kernels/gemm.h"

namespace msplora::kernels {

#define MSPLORA_DECLARE(isa)                  \
  namespace isa {                             \
  template <typename T>                       \
  int64_t multiply_registers(int64_t rounds); \
  }
MSPLORA_DECLARE(portable)
MSPLORA_DECLARE(avx2)
MSPLORA_DECLARE(avx512)
MSPLORA_DECLARE(avx512bf16)
#undef MSPLORA_DECLARE

namespace amx {
int64_t multiply_tiles(int64_t rounds);
}

}  // namespace msplora::kernels
