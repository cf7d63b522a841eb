#pragma once

#include "msplora/kernels/gemm.h"

// Packed products per instruction set, under the same rules as table.h.
namespace msplora::kernels {

template <typename T>
struct GemmKernels {
  void (*packed_gemm)(const PackedGemm<T>&);
  int64_t (*elements)(int64_t inner, int64_t width);
  void (*pack)(const T* w, int64_t inner, int64_t width, int64_t row_stride, int64_t column_stride,
               T* packed);
};

#define MSPLORA_DECLARE_GEMM_KERNELS(isa)              \
  namespace isa {                                      \
  extern const GemmKernels<float> kFloatGemmKernels;   \
  extern const GemmKernels<Bfloat16> kBf16GemmKernels; \
  }
MSPLORA_DECLARE_GEMM_KERNELS(portable)
MSPLORA_DECLARE_GEMM_KERNELS(avx2)
MSPLORA_DECLARE_GEMM_KERNELS(avx512)
MSPLORA_DECLARE_GEMM_KERNELS(avx512bf16)
#undef MSPLORA_DECLARE_GEMM_KERNELS

}  // namespace msplora::kernels
