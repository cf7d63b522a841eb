#include "kernels/gemm_table.h"

#ifdef MSPLORA_KERNELS_X86
#include <cpuid.h>
#endif

namespace msplora::kernels {
namespace {

bool has_matrix_units() {
#ifdef MSPLORA_KERNELS_X86
  unsigned int a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned int kAmxBf16 = 1u << 22;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAmxBf16) != 0;
#else
  return false;
#endif
}

template <typename T>
const GemmKernels<T>& kernels_of(Isa isa);

template <>
const GemmKernels<float>& kernels_of<float>([[maybe_unused]] Isa isa) {
#ifdef MSPLORA_KERNELS_X86
  if (isa == Isa::kAvx512Bf16) return avx512bf16::kFloatGemmKernels;
  if (isa == Isa::kAvx512) return avx512::kFloatGemmKernels;
  if (isa == Isa::kAvx2) return avx2::kFloatGemmKernels;
#endif
  return portable::kFloatGemmKernels;
}
template <>
const GemmKernels<Bfloat16>& kernels_of<Bfloat16>([[maybe_unused]] Isa isa) {
#ifdef MSPLORA_KERNELS_X86
  if (isa == Isa::kAvx512Bf16) return avx512bf16::kBf16GemmKernels;
  if (isa == Isa::kAvx512) return avx512::kBf16GemmKernels;
  if (isa == Isa::kAvx2) return avx2::kBf16GemmKernels;
#endif
  return portable::kBf16GemmKernels;
}

}  // namespace

template <typename T>
void packed_gemm(const PackedGemm<T>& op) {
  kernels_of<T>(op.isa).packed_gemm(op);
}
template <typename T>
int64_t packed_gemm_elements(Isa isa, int64_t inner, int64_t width) {
  return kernels_of<T>(isa).elements(inner, width);
}
template <typename T>
void pack_gemm(Isa isa, const T* w, int64_t inner, int64_t width, int64_t row_stride, int64_t column_stride,
               T* packed) {
  kernels_of<T>(isa).pack(w, inner, width, row_stride, column_stride, packed);
}

template <>
bool prefers_packed_gemm<float>() {
  return active_isa() != Isa::kPortable;
}
template <>
bool prefers_packed_gemm<Bfloat16>() {
  static const bool is_amx = has_matrix_units();
  return active_isa() != Isa::kPortable && !(is_amx && active_isa() == Isa::kAvx512Bf16);
}

#define MSPLORA_INSTANTIATE(T)                                     \
  template void packed_gemm(const PackedGemm<T>&);                 \
  template int64_t packed_gemm_elements<T>(Isa, int64_t, int64_t); \
  template void pack_gemm(Isa, const T*, int64_t, int64_t, int64_t, int64_t, T*);
MSPLORA_INSTANTIATE(float)
MSPLORA_INSTANTIATE(Bfloat16)
#undef MSPLORA_INSTANTIATE

}  // namespace msplora::kernels
