#pragma once

#include "kernels/cpu/simd.h"

namespace msplora::kernels::MSPLORA_ISA {

/// Below this many elements a parallel region costs more than it saves.
inline constexpr int64_t kParallelElements = 1 << 14;

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
