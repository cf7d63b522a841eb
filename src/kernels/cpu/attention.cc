#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int64_t kRowBlock = 32;  // query rows handled at a time; 32 * round_up(S, 16) is a multiple of 128
constexpr int kQSlot = 2, kKSlot = 3, kKtSlot = 4, kVSlot = 5, kPSlot = 6, kDoSlot = 7, kDsSlot = 8,
              kDkSlot = 9, kDvSlot = 10, kOutSlot = 11, kVtSlot = 12, kMaskSlot = 13;

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// C[m, n] = (add ? C : 0) + A[m, k] B[k, n]. A is read one scalar at a time with any strides; rows of B and C
// are padded to whole vectors of 16 floats, so n is a multiple of 16.
template <int Rows, int Vectors>
MSPLORA_INLINE void gemm_tile(int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                              int64_t ldb, float* c, int64_t ldc, bool add) {
  VecF acc[Rows][Vectors];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) acc[i][j] = add ? load(c + i * ldc + j * kLanes) : splat(0.0f);
  for (int64_t p = 0; p < k; ++p) {
    VecF row[Vectors];
    for (int j = 0; j < Vectors; ++j) row[j] = load(b + p * ldb + j * kLanes);
    for (int i = 0; i < Rows; ++i) {
      const VecF factor = splat(a[i * a_row + p * a_col]);
      for (int j = 0; j < Vectors; ++j) acc[i][j] += factor * row[j];
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) store(c + i * ldc + j * kLanes, acc[i][j]);
}

template <int Rows>
void gemm_rows(int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
               int64_t ldb, float* c, int64_t ldc, bool add) {
  constexpr int kWide = 4;
  int64_t j = 0;
  for (; j + kWide * kLanes <= n; j += kWide * kLanes)
    gemm_tile<Rows, kWide>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, add);
  for (; j < n; j += kLanes) gemm_tile<Rows, 1>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, add);
}

void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
          int64_t ldb, float* c, int64_t ldc, bool add) {
  constexpr int kRows = kLanes == 16 ? 6 : (kLanes == 8 ? 3 : 2);  // accumulators that fit the register file
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows)
    gemm_rows<kRows>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, add);
  for (; i < m; ++i) gemm_rows<1>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, add);
}

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

template <typename T>
void scatter(const float* from, int64_t padded, int64_t rows, int64_t width, float scale, T* to,
             int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* source = from + r * padded;
    T* target = to + r * stride;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(target + i, load(source + i) * scale);
    for (; i < width; ++i) set(target[i], source[i] * scale);
  }
}

void transpose(const float* from, int64_t rows, int64_t cols, int64_t from_stride, float* to,
               int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  for (int64_t c = 0; c < cols; ++c)
    for (int64_t r = rows; r < to_stride; ++r) to[c * to_stride + r] = 0.0f;
}

// One head of one segment, converted to float and padded.
struct Tile {
  int64_t length, padded_length, dim, padded_dim;
  int64_t first_token, head;
};

template <typename T>
Tile make_tile(const SegmentAttention<T>& op, int64_t segment, int64_t head) {
  const int64_t begin = op.cu_seqlens[segment];
  const int64_t length = op.cu_seqlens[segment + 1] - begin;
  return {length, round_up(length, 16), op.head_dim, round_up(op.head_dim, 16), begin, head};
}

// Number of keys that query row i sees.
MSPLORA_INLINE int64_t visible(const Tile& tile, bool causal, int64_t i) {
  return causal ? i + 1 : tile.length;
}

// Scores of rows [i0, i0 + rows) -> probabilities in place; writes the log-sum-exp of each row.
void softmax_rows(const Tile& tile, bool causal, int64_t i0, int64_t rows, float* p, float* lse,
                  int64_t lse_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = p + r * tile.padded_length;
    const int64_t n = visible(tile, causal, i0 + r);
    for (int64_t j = n; j < tile.padded_length; ++j) row[j] = -1e30f;
    VecF best = load(row);
    for (int64_t j = kLanes; j < tile.padded_length; j += kLanes) best = vmax(load(row + j), best);
    const float top = max_lanes(best);
    VecF total = splat(0.0f);
    for (int64_t j = 0; j < tile.padded_length; j += kLanes) {
      const VecF e = exp(load(row + j) - top);
      store(row + j, e);
      total += e;
    }
    // exp clamps, so hidden keys leave a tiny positive number: take it away exactly.
    for (int64_t j = n; j < tile.padded_length; ++j) row[j] = 0.0f;
    VecF sum = splat(0.0f);
    for (int64_t j = 0; j < tile.padded_length; j += kLanes) sum += load(row + j);
    const float denominator = sum_lanes(sum);
    const float inverse = 1.0f / denominator;
    for (int64_t j = 0; j < tile.padded_length; j += kLanes) store(row + j, load(row + j) * inverse);
    if (lse) lse[r * lse_stride] = top + __builtin_logf(denominator);
  }
}

// Probabilities again from the saved log-sum-exp.
void probability_rows(const Tile& tile, bool causal, int64_t i0, int64_t rows, float* p, const float* lse,
                      int64_t lse_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = p + r * tile.padded_length;
    const int64_t n = visible(tile, causal, i0 + r);
    const float shift = lse[r * lse_stride];
    for (int64_t j = 0; j < tile.padded_length; j += kLanes) store(row + j, exp(load(row + j) - shift));
    for (int64_t j = n; j < tile.padded_length; ++j) row[j] = 0.0f;
  }
}

// The mask factors of rows [i0, i0 + rows) as a float block; i0 is a multiple of kRowBlock.
void mask_block(const DropoutMask& mask, const Tile& tile, int64_t i0, int64_t rows, float* factors) {
  const uint64_t key = attention_mask_key(mask.key, tile.first_token, tile.head);
  const uint32_t threshold = mask.threshold();
  const float scale = static_cast<float>(mask.scale());
  const int64_t elements = rows * tile.padded_length;
  const uint64_t first = static_cast<uint64_t>(i0 * tile.padded_length / 128);
  for (int64_t block = 0; block * 128 < elements; ++block) {
    alignas(64) uint16_t numbers[128];
    philox_block(key, first + static_cast<uint64_t>(block), numbers);
    for (int i = 0; i < 128; i += kLanes)
      store(factors + block * 128 + i, mask_factors(numbers + i, threshold, scale));
  }
}

void multiply(float* p, const float* factors, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(p + i, load(p + i) * load(factors + i));
}

template <typename T>
void forward_tile(const SegmentAttention<T>& op, const Tile& tile) {
  const int64_t length = tile.length, dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const int64_t kv_head = tile.head / (op.heads / op.kv_heads);
  float* k = thread_scratch(kKSlot, length * deep);
  float* kt = thread_scratch(kKtSlot, dim * wide);
  float* v = thread_scratch(kVSlot, length * deep);
  float* q = thread_scratch(kQSlot, kRowBlock * deep);
  float* p = thread_scratch(kPSlot, kRowBlock * wide + 128);
  float* out = thread_scratch(kOutSlot, kRowBlock * deep);
  float* factors = op.mask.active() ? thread_scratch(kMaskSlot, kRowBlock * wide + 128) : nullptr;
  gather(op.k + tile.first_token * op.k_stride + kv_head * dim, op.k_stride, length, dim, deep, 1.0f, k);
  transpose(k, length, dim, deep, kt, wide);
  gather(op.v + tile.first_token * op.v_stride + kv_head * dim, op.v_stride, length, dim, deep, 1.0f, v);
  for (int64_t i0 = 0; i0 < length; i0 += kRowBlock) {
    const int64_t rows = length - i0 < kRowBlock ? length - i0 : kRowBlock;
    const int64_t token = tile.first_token + i0;
    // Keys after the last row of a causal block are hidden from all of its rows.
    const int64_t keys = op.causal ? i0 + rows : length;
    gather(op.q + token * op.q_stride + tile.head * dim, op.q_stride, rows, dim, deep,
           static_cast<float>(op.scale), q);
    gemm(rows, round_up(keys, 16), dim, q, deep, 1, kt, wide, p, wide, false);
    softmax_rows(tile, op.causal, i0, rows, p, op.lse ? op.lse + token * op.heads + tile.head : nullptr,
                 op.heads);
    if (factors) {
      mask_block(op.mask, tile, i0, rows, factors);
      multiply(p, factors, rows * wide);
    }
    gemm(rows, deep, keys, p, wide, 1, v, deep, out, deep, false);
    scatter(out, deep, rows, dim, 1.0f, op.o + token * op.o_stride + tile.head * dim, op.o_stride);
  }
}

struct BackwardScratch {
  float *k, *kt, *vt, *q, *p, *d_o, *ds, *dk, *dv, *out, *factors;
};

BackwardScratch backward_scratch(const Tile& tile, bool dropout) {
  const int64_t wide = tile.padded_length, deep = tile.padded_dim;
  return {thread_scratch(kKSlot, tile.length * deep),
          thread_scratch(kKtSlot, tile.dim * wide),
          thread_scratch(kVtSlot, tile.dim * wide),
          thread_scratch(kQSlot, kRowBlock * deep),
          thread_scratch(kPSlot, kRowBlock * wide + 128),
          thread_scratch(kDoSlot, kRowBlock * deep),
          thread_scratch(kDsSlot, kRowBlock * wide),
          thread_scratch(kDkSlot, tile.length * deep),
          thread_scratch(kDvSlot, tile.length * deep),
          thread_scratch(kOutSlot, kRowBlock * deep),
          dropout ? thread_scratch(kMaskSlot, kRowBlock * wide + 128) : nullptr};
}

// dS = P * (dP - delta), dP = M * dO Vᵀ, delta_i = Σ_j P_ij dP_ij / Σ_j P_ij. Dao et al. 2022 (Algorithm 4)
// take the equal dO_i . O_i; where dP hardly varies along a row, that loses the digits that the difference
// needs. On return p holds the masked probabilities M * P, which dV needs.
void score_gradients(const DropoutMask& mask, const Tile& tile, int64_t i0, int64_t rows,
                     const BackwardScratch& t) {
  const int64_t wide = tile.padded_length;
  if (t.factors) {
    mask_block(mask, tile, i0, rows, t.factors);
    multiply(t.ds, t.factors, rows * wide);
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* p = t.p + r * wide;
    float* ds = t.ds + r * wide;
    VecF weighted = splat(0.0f), total = splat(0.0f);
    for (int64_t j = 0; j < wide; j += kLanes) {
      weighted += load(p + j) * load(ds + j);
      total += load(p + j);
    }
    const float delta = sum_lanes(weighted) / sum_lanes(total);
    for (int64_t j = 0; j < wide; j += kLanes) store(ds + j, load(p + j) * (load(ds + j) - delta));
  }
  if (t.factors) multiply(t.p, t.factors, rows * wide);
}

template <typename T>
void backward_head(const SegmentAttentionBackward<T>& op, const Tile& tile, const BackwardScratch& t) {
  const SegmentAttention<T>& f = op.forward;
  const int64_t length = tile.length, dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const float scale = static_cast<float>(f.scale);
  for (int64_t i0 = 0; i0 < length; i0 += kRowBlock) {
    const int64_t rows = length - i0 < kRowBlock ? length - i0 : kRowBlock;
    const int64_t token = tile.first_token + i0, column = tile.head * dim;
    const int64_t keys = f.causal ? i0 + rows : length;
    gather(f.q + token * f.q_stride + column, f.q_stride, rows, dim, deep, scale, t.q);
    gather(op.d_o + token * f.o_stride + column, f.o_stride, rows, dim, deep, 1.0f, t.d_o);
    gemm(rows, wide, dim, t.q, deep, 1, t.kt, wide, t.p, wide, false);
    probability_rows(tile, f.causal, i0, rows, t.p, f.lse + token * f.heads + tile.head, f.heads);
    gemm(rows, wide, dim, t.d_o, deep, 1, t.vt, wide, t.ds, wide, false);
    score_gradients(f.mask, tile, i0, rows, t);
    gemm(keys, deep, rows, t.p, 1, wide, t.d_o, deep, t.dv, deep, true);
    gemm(keys, deep, rows, t.ds, 1, wide, t.q, deep, t.dk, deep, true);
    gemm(rows, deep, keys, t.ds, wide, 1, t.k, deep, t.out, deep, false);
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
  const BackwardScratch t = backward_scratch(tile, f.mask.active());
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
  const int64_t tasks = op.segments * op.heads;
#pragma omp parallel for schedule(dynamic) if (op.cu_seqlens[op.segments] > 16)
  for (int64_t task = 0; task < tasks; ++task) {
    const Tile tile = make_tile(op, task / op.heads, task % op.heads);
    if (tile.length > 0) forward_tile(op, tile);
  }
}

template <typename T>
void segment_attention_backward(const SegmentAttentionBackward<T>& op) {
  const SegmentAttention<T>& f = op.forward;
  const int64_t tasks = f.segments * f.kv_heads;
#pragma omp parallel for schedule(dynamic) if (f.cu_seqlens[f.segments] > 16)
  for (int64_t task = 0; task < tasks; ++task) backward_group(op, task / f.kv_heads, task % f.kv_heads);
}

template void segment_attention(const SegmentAttention<float>&);
template void segment_attention(const SegmentAttention<Bfloat16>&);
template void segment_attention_backward(const SegmentAttentionBackward<float>&);
template void segment_attention_backward(const SegmentAttentionBackward<Bfloat16>&);

}  // namespace msplora::kernels::MSPLORA_ISA
