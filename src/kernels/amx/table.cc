// The column of processors with matrix units (AMX): what has no kernel on tiles is that of AVX512_BF16.
#include "kernels/table.h"

#include "kernels/amx/vector_kernels.h"

namespace msplora::kernels::amx {

#define MSPLORA_KERNEL(name, Op) \
  template <typename T>          \
  void name(const Op<T>& op);
MSPLORA_KERNELS
#undef MSPLORA_KERNEL

namespace {

template <typename T>
constexpr Table<T> column() {
#define MSPLORA_KERNEL(name, Op) &avx512bf16::name<T>,
  return {MSPLORA_KERNELS};
#undef MSPLORA_KERNEL
}

template <typename T>
constexpr Table<T> with_tiles() {
  Table<T> table = column<T>();
  table.pack_gemm = &pack_gemm<T>;
  table.packed_gemm = &packed_gemm<T>;
  table.attention = &attention<T>;
  table.attention_backward = &attention_backward<T>;
  table.low_rank = &low_rank<T>;
  table.low_rank_backward = &low_rank_backward<T>;
  return table;
}

}  // namespace

extern constexpr Table<float> kFloatTable = with_tiles<float>();
extern constexpr Table<Bfloat16> kBf16Table = with_tiles<Bfloat16>();

}  // namespace msplora::kernels::amx
