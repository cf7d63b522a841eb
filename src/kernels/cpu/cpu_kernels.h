#pragma once

#include "kernels/cpu/simd.h"

namespace msplora::kernels::MSPLORA_ISA {

/// Rows that a thread takes at once where rows are independent: a thread that is held up takes fewer.
inline constexpr int64_t kRowsOfATask = 64;

/// Below this many elements a parallel region costs more than it saves.
inline constexpr int64_t kParallelElements = 1 << 14;

/// The elements that are left of `n` from `i` on, a whole vector at most.
MSPLORA_INLINE int lanes_from(int64_t i, int64_t n) {
  return n - i < kLanes ? static_cast<int>(n - i) : kLanes;
}
template <typename T>
MSPLORA_INLINE VecF load_some(const T* p, int n) {
  return n == kLanes ? load(p) : load_part(p, n);
}
template <typename T>
MSPLORA_INLINE void store_some(T* p, VecF v, int n) {
  if (n == kLanes) {
    store(p, v);
  } else {
    store_part(p, v, n);
  }
}

MSPLORA_INLINE VecF logistic(VecF x) {
  return 1.0f / (1.0f + exp(-x));
}

template <typename T>
void dropout(const T* x, T* y, int64_t n, DropoutMask mask);
template <typename T>
void embedding_sum(const EmbeddingSum<T>& op);
template <typename T>
void add_row_noise(const RowNoise<T>& op);
template <typename T>
void activation(Activation kind, const T* x, T* y, T* derivative, int64_t n);
template <typename T>
void multiply(const T* a, const T* b, T* y, int64_t n);
template <typename T>
void residual_layer_norm(const ResidualLayerNorm<T>& op);
template <typename T>
void residual_layer_norm_backward(const ResidualLayerNormBackward<T>& op);
template <typename T>
void low_rank(const LowRank<T>& op);
template <typename T>
void low_rank_backward(const LowRankBackward<T>& op);
template <typename T>
void segment_attention(const SegmentAttention<T>& op);
template <typename T>
void segment_attention_backward(const SegmentAttentionBackward<T>& op);

}  // namespace msplora::kernels::MSPLORA_ISA
