#include <type_traits>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/small_gemm.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

// [rows, width] with row stride -> float [rows, padded], zero beyond width.
template <typename T>
void gather(const T* from, int64_t stride, int64_t rows, int64_t width, int64_t padded, float scale,
            float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* source = from + r * stride;
    float* target = to + r * padded;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(target + i, load(source + i) * scale);
    for (; i < width; ++i) target[i] = to_float(source[i]) * scale;
    for (; i < padded; ++i) target[i] = 0.0f;
  }
}

void transpose(const float* from, int64_t rows, int64_t cols, int64_t from_stride, float* to,
               int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  for (int64_t c = 0; c < cols; ++c)
    for (int64_t r = rows; r < to_stride; ++r) to[c * to_stride + r] = 0.0f;
}

template <typename T>
void forward_tile(const SegmentAttention<T>& op, const Tile& tile) {
  const int64_t length = tile.length, dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const int64_t kv_head = tile.head / (op.heads / op.kv_heads);
  float* k = thread_scratch(kKSlot, length * deep);
  float* kt = thread_scratch(kKtSlot, dim * wide);
  float* v = thread_scratch(kVSlot, length * deep);
  float* q = thread_scratch(kQSlot, kRowBlock * deep);
  float* p = thread_scratch(kPSlot, kRowBlock * wide);
  float* out = thread_scratch(kOutSlot, kRowBlock * deep);
  gather(op.k + tile.first_token * op.k_stride + kv_head * dim, op.k_stride, length, dim, deep, 1.0f, k);
  transpose(k, length, dim, deep, kt, wide);
  gather(op.v + tile.first_token * op.v_stride + kv_head * dim, op.v_stride, length, dim, deep, 1.0f, v);
  for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock) {
    const int64_t rows = tile.queries - i0 < kRowBlock ? tile.queries - i0 : kRowBlock;
    const int64_t token = tile.first_query + i0;
    const Columns columns = columns_of(tile, i0, rows);
    gather(op.q + token * op.q_stride + tile.head * dim, op.q_stride, rows, dim, deep,
           static_cast<float>(op.scale), q);
    gemm(rows, columns.count(), dim, q, deep, 1, kt + columns.begin, wide, p + columns.begin, wide, false);
    softmax_rows(tile, i0, rows, columns, p, op.lse ? op.lse + token * op.heads + tile.head : nullptr,
                 op.heads);
    if (op.mask.active())
      apply_mask(p, block_mask(op.mask, tile, i0, rows, columns), static_cast<float>(op.mask.scale()), rows,
                 columns, wide);
    gemm(rows, deep, columns.keys(), p + columns.begin, wide, 1, v + columns.begin * deep, deep, out, deep,
         false);
    scatter(out, deep, rows, dim, 1.0f, op.o + token * op.o_stride + tile.head * dim, op.o_stride);
  }
}

struct BackwardScratch {
  float *k, *kt, *vt, *q, *p, *d_o, *ds, *dk, *dv, *out;
};

BackwardScratch backward_scratch(const Tile& tile) {
  const int64_t wide = tile.padded_length, deep = tile.padded_dim;
  return {thread_scratch(kKSlot, tile.length * deep),  thread_scratch(kKtSlot, tile.dim * wide),
          thread_scratch(kVtSlot, tile.dim * wide),    thread_scratch(kQSlot, kRowBlock * deep),
          thread_scratch(kPSlot, kRowBlock * wide),    thread_scratch(kDoSlot, kRowBlock * deep),
          thread_scratch(kDsSlot, kRowBlock * wide),   thread_scratch(kDkSlot, tile.length * deep),
          thread_scratch(kDvSlot, tile.length * deep), thread_scratch(kOutSlot, kRowBlock * deep)};
}

template <typename T>
void backward_head(const SegmentAttentionBackward<T>& op, const Tile& tile, const BackwardScratch& t) {
  const SegmentAttention<T>& f = op.forward;
  const int64_t dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const float scale = static_cast<float>(f.scale);
  for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock) {
    const int64_t rows = tile.queries - i0 < kRowBlock ? tile.queries - i0 : kRowBlock;
    const int64_t token = tile.first_query + i0, column = tile.head * dim;
    const Columns columns = columns_of(tile, i0, rows);
    const int64_t first = columns.begin, keys = columns.keys();
    gather(f.q + token * f.q_stride + column, f.q_stride, rows, dim, deep, scale, t.q);
    gather(op.d_o + token * f.o_stride + column, f.o_stride, rows, dim, deep, 1.0f, t.d_o);
    gemm(rows, columns.count(), dim, t.q, deep, 1, t.kt + first, wide, t.p + first, wide, false);
    probability_rows(tile, i0, rows, columns, t.p, f.lse + token * f.heads + tile.head, f.heads);
    gemm(rows, columns.count(), dim, t.d_o, deep, 1, t.vt + first, wide, t.ds + first, wide, false);
    score_gradients(tile, rows, columns, block_mask(f.mask, tile, i0, rows, columns),
                    static_cast<float>(f.mask.scale()), t.p, t.ds);
    gemm(keys, deep, rows, t.p + first, 1, wide, t.d_o, deep, t.dv + first * deep, deep, true);
    gemm(keys, deep, rows, t.ds + first, 1, wide, t.q, deep, t.dk + first * deep, deep, true);
    gemm(rows, deep, keys, t.ds + first, wide, 1, t.k + first * deep, deep, t.out, deep, false);
    scatter(t.out, deep, rows, dim, scale, op.dq + token * f.q_stride + column, f.q_stride);
  }
}

// All query heads that read one key head, so that dk and dv have one writer.
template <typename T>
void backward_group(const SegmentAttentionBackward<T>& op, int64_t segment, int64_t kv_head) {
  const SegmentAttention<T>& f = op.forward;
  const int64_t group = f.heads / f.kv_heads;
  Tile tile = make_tile(f, segment, kv_head * group);
  if (tile.length == 0) return;
  const int64_t deep = tile.padded_dim, dim = tile.dim;
  const BackwardScratch t = backward_scratch(tile);
  const int64_t k_offset = tile.first_token * f.k_stride + kv_head * dim;
  const int64_t v_offset = tile.first_token * f.v_stride + kv_head * dim;
  gather(f.v + v_offset, f.v_stride, tile.length, dim, deep, 1.0f, t.k);
  transpose(t.k, tile.length, dim, deep, t.vt, tile.padded_length);
  gather(f.k + k_offset, f.k_stride, tile.length, dim, deep, 1.0f, t.k);
  transpose(t.k, tile.length, dim, deep, t.kt, tile.padded_length);
  std::memset(t.dk, 0, sizeof(float) * static_cast<size_t>(tile.length * deep));
  std::memset(t.dv, 0, sizeof(float) * static_cast<size_t>(tile.length * deep));
  for (int64_t h = 0; h < group; ++h) {
    tile.head = kv_head * group + h;
    backward_head(op, tile, t);
  }
  scatter(t.dk, deep, tile.length, dim, 1.0f, op.dk + k_offset, f.k_stride);
  scatter(t.dv, deep, tile.length, dim, 1.0f, op.dv + v_offset, f.v_stride);
}

}  // namespace

template <typename T>
void segment_attention(const SegmentAttention<T>& op) {
  if constexpr (std::is_same_v<T, Bfloat16>) {
    if (attention_in_pairs(op)) return;
  }
  const int64_t tasks = op.segments * op.heads, chunk = tasks_at_a_time(op.segments, op.heads);
#pragma omp parallel for schedule(dynamic, chunk) if (op.cu_seqlens[op.segments] > 16)
  for (int64_t task = 0; task < tasks; ++task) {
    const Tile tile = make_tile(op, task / op.heads, task % op.heads);
    if (tile.length > 0) forward_tile(op, tile);
  }
}

template <typename T>
void segment_attention_backward(const SegmentAttentionBackward<T>& op) {
  if constexpr (std::is_same_v<T, Bfloat16>) {
    if (attention_in_pairs_backward(op)) return;
  }
  const SegmentAttention<T>& f = op.forward;
  const int64_t tasks = f.segments * f.kv_heads, chunk = tasks_at_a_time(f.segments, f.kv_heads);
#pragma omp parallel for schedule(dynamic, chunk) if (f.cu_seqlens[f.segments] > 16)
  for (int64_t task = 0; task < tasks; ++task) backward_group(op, task / f.kv_heads, task % f.kv_heads);
}

MSPLORA_DEFINED(segment_attention, SegmentAttention)
MSPLORA_DEFINED(segment_attention_backward, SegmentAttentionBackward)

}  // namespace msplora::kernels::MSPLORA_ISA
