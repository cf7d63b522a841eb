#pragma once

#include "msplora/kernels/kernels.h"

// One table of function pointers per instruction set. The per-ISA sources must not emit inline functions that
// other sources share (the linker could pick the copy that the processor cannot run): no standard containers
// in them.
namespace msplora::kernels {

template <typename T>
struct KernelTable {
  void (*dropout)(const T*, T*, int64_t, DropoutMask);
  void (*embedding_sum)(const EmbeddingSum<T>&);
  void (*add_row_noise)(const RowNoise<T>&);
  void (*residual_layer_norm)(const ResidualLayerNorm<T>&);
  void (*residual_layer_norm_backward)(const ResidualLayerNormBackward<T>&);
  void (*activation)(Activation, const T*, T*, T*, int64_t);
  void (*multiply)(const T*, const T*, T*, int64_t);
  void (*low_rank)(const LowRank<T>&);
  void (*low_rank_backward)(const LowRankBackward<T>&);
  void (*segment_attention)(const SegmentAttention<T>&);
  void (*segment_attention_backward)(const SegmentAttentionBackward<T>&);
};

#define MSPLORA_DECLARE_TABLES(isa)              \
  namespace isa {                                \
  extern const KernelTable<float> kFloatTable;   \
  extern const KernelTable<Bfloat16> kBf16Table; \
  }
MSPLORA_DECLARE_TABLES(portable)
MSPLORA_DECLARE_TABLES(avx2)
MSPLORA_DECLARE_TABLES(avx512)
MSPLORA_DECLARE_TABLES(avx512bf16)
#undef MSPLORA_DECLARE_TABLES

/// Scratch memory of the calling thread, 64-byte aligned, kept between calls and grown on demand; `slot`
/// (below kScratchSlots) tells apart buffers that are alive together.
inline constexpr int kScratchSlots = 24;
float* thread_scratch(int slot, int64_t floats);

/// The key of the attention mask of one (segment, head).
uint64_t attention_mask_key(uint64_t key, int64_t first_token, int64_t head);

}  // namespace msplora::kernels
