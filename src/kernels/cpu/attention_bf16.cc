// Attention on bfloat16 dot products: one instruction multiplies 16 pairs of neighbours and adds both
// products in float. Operands are arrays of pairs (uint32_t): neighbours in a row where the row is the summed
// dimension, two rows interleaved where the column is. Probabilities and score gradients are rounded to
// bfloat16 before they enter a product, as in FlashAttention; softmax, masks and sums stay in float.
#include "kernels/cpu/attention_tile.h"

namespace msplora::kernels::MSPLORA_ISA {

#if defined(__AVX512BF16__)
namespace {

constexpr int kWidePairSlot = 15;

MSPLORA_INLINE VecF dot_pairs(VecF sum, VecU a, VecU b) {
  return (VecF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
MSPLORA_INLINE VecU load_u32(const uint32_t* p) {
  VecU v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
MSPLORA_INLINE void store_u32(uint32_t* p, VecU v) {
  std::memcpy(p, &v, sizeof(v));
}
MSPLORA_INLINE VecU load_halves(const uint16_t* p) {
  return (VecU)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
MSPLORA_INLINE VecU bf16_bits(VecF v) {
  return (VecU)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
}

// C[Rows, 16 Vectors] (+)= A B over k pairs; pair p of row i of A is a[i * a_row + p * a_col].
template <int Rows, int Vectors>
MSPLORA_INLINE void pair_tile(int64_t k, const uint32_t* a, int64_t a_row, int64_t a_col, const uint32_t* b,
                              int64_t ldb, float* c, int64_t ldc, bool add) {
  VecF acc[Rows][Vectors];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) acc[i][j] = add ? load(c + i * ldc + j * kLanes) : splat(0.0f);
  for (int64_t p = 0; p < k; ++p) {
    VecU row[Vectors];
    for (int j = 0; j < Vectors; ++j) row[j] = load_u32(b + p * ldb + j * kLanes);
    for (int i = 0; i < Rows; ++i) {
      const VecU pair = VecU{} + a[i * a_row + p * a_col];
      for (int j = 0; j < Vectors; ++j) acc[i][j] = dot_pairs(acc[i][j], pair, row[j]);
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) store(c + i * ldc + j * kLanes, acc[i][j]);
}

template <int Rows>
void pair_rows(int64_t n, int64_t k, const uint32_t* a, int64_t a_row, int64_t a_col, const uint32_t* b,
               int64_t ldb, float* c, int64_t ldc, bool add) {
  constexpr int kWide = 4;
  int64_t j = 0;
  for (; j + kWide * kLanes <= n; j += kWide * kLanes)
    pair_tile<Rows, kWide>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, add);
  for (; j < n; j += kLanes) pair_tile<Rows, 1>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, add);
}

void pair_gemm(int64_t m, int64_t n, int64_t k, const uint32_t* a, int64_t a_row, int64_t a_col,
               const uint32_t* b, int64_t ldb, float* c, int64_t ldc, bool add) {
  int64_t i = 0;
  for (; i + 6 <= m; i += 6) pair_rows<6>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, add);
  for (; i + 2 <= m; i += 2) pair_rows<2>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, add);
  for (; i < m; ++i) pair_rows<1>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, add);
}

// Rows of `dim` values -> to[dim / 2, wide]: pair p of every row, the rows side by side; zero beyond `rows`.
void transpose_pairs(const Bfloat16* from, int64_t stride, int64_t rows, int64_t dim, int64_t wide,
                     uint32_t* to) {
  alignas(64) int32_t offsets[16];
  for (int i = 0; i < 16; ++i) offsets[i] = static_cast<int32_t>(i * stride * 2);
  const __m512i index = _mm512_load_si512(offsets);
  for (int64_t r = 0; r < wide; r += 16) {
    const int64_t count = rows - r < 0 ? 0 : (rows - r < 16 ? rows - r : 16);
    const __mmask16 valid = static_cast<__mmask16>((1u << count) - 1u);
    const auto* base = reinterpret_cast<const char*>(from + r * stride);
    for (int64_t p = 0; p < dim / 2; ++p) {
      const __m512i column =
          _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), valid, index, base + 4 * p, 1);
      _mm512_storeu_si512(to + p * wide + r, column);
    }
  }
}

// Rows of `dim` values -> to[padded_rows / 2, deep]: rows 2p and 2p + 1 interleaved, zero outside.
void interleave_rows(const Bfloat16* from, int64_t stride, int64_t rows, int64_t padded_rows, int64_t dim,
                     int64_t deep, uint32_t* to) {
  for (int64_t p = 0; p < padded_rows / 2; ++p) {
    for (int64_t d = 0; d < deep; d += 16) {
      const int64_t count = dim - d < 0 ? 0 : (dim - d < 16 ? dim - d : 16);
      const __mmask16 valid = static_cast<__mmask16>((1u << count) - 1u);
      const auto half = [&](int64_t r) {
        const __mmask16 mask = r < rows ? valid : __mmask16{0};
        return (VecU)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from + r * stride + d));
      };
      store_u32(to + p * deep + d, half(2 * p) | (half(2 * p + 1) << 16));
    }
  }
}

// Float rows -> pairs of neighbours in a row, [rows, wide / 2].
void pair_columns(const float* from, int64_t rows, int64_t wide, uint32_t* to) {
  auto* out = reinterpret_cast<Bfloat16*>(to);
  for (int64_t i = 0; i < rows * wide; i += kLanes) store(out + i, load(from + i));
}

// Float rows -> rows 2p and 2p + 1 interleaved, [round_up(rows, 2) / 2, wide].
void pair_rows_of(const float* from, int64_t rows, int64_t wide, uint32_t* to) {
  for (int64_t r = 0; r < rows; r += 2) {
    for (int64_t j = 0; j < wide; j += kLanes) {
      const VecU low = bf16_bits(load(from + r * wide + j));
      const VecU high = r + 1 < rows ? bf16_bits(load(from + (r + 1) * wide + j)) : VecU{};
      store_u32(to + r / 2 * wide + j, low | (high << 16));
    }
  }
}

// The rows of q or dO as pairs; the kernels read them where they lie.
MSPLORA_INLINE const uint32_t* as_pairs(const Bfloat16* p) {
  return reinterpret_cast<const uint32_t*>(p);
}

uint32_t* pair_scratch(int slot, int64_t count) {
  return reinterpret_cast<uint32_t*>(thread_scratch(slot, count));
}

void scale_rows(float* p, int64_t n, float scale) {
  for (int64_t i = 0; i < n; i += kLanes) store(p + i, load(p + i) * scale);
}

void forward_head(const SegmentAttention<Bfloat16>& op, const Tile& tile) {
  const int64_t dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const int64_t kv_head = tile.head / (op.heads / op.kv_heads);
  uint32_t* kt = pair_scratch(kKtSlot, dim / 2 * wide);
  uint32_t* v = pair_scratch(kVSlot, wide / 2 * deep);
  float* p = thread_scratch(kPSlot, kRowBlock * wide + 128);
  uint32_t* p_pairs = pair_scratch(kWidePairSlot, kRowBlock * wide / 2);
  float* out = thread_scratch(kOutSlot, kRowBlock * deep);
  float* factors = op.mask.active() ? thread_scratch(kMaskSlot, kRowBlock * wide + 128) : nullptr;
  transpose_pairs(op.k + tile.first_token * op.k_stride + kv_head * dim, op.k_stride, tile.length, dim, wide,
                  kt);
  interleave_rows(op.v + tile.first_token * op.v_stride + kv_head * dim, op.v_stride, tile.length, wide, dim,
                  deep, v);
  for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock) {
    const int64_t rows = tile.queries - i0 < kRowBlock ? tile.queries - i0 : kRowBlock;
    const int64_t token = tile.first_query + i0;
    const int64_t keys = round_up(op.causal ? i0 + rows : tile.length, 16);
    pair_gemm(rows, keys, dim / 2, as_pairs(op.q + token * op.q_stride + tile.head * dim), op.q_stride / 2, 1,
              kt, wide, p, wide, false);
    scale_rows(p, rows * wide, static_cast<float>(op.scale));
    softmax_rows(tile, op.causal, i0, rows, p, op.lse ? op.lse + token * op.heads + tile.head : nullptr,
                 op.heads);
    if (factors) {
      mask_block(op.mask, tile, i0, rows, factors);
      multiply(p, factors, rows * wide);
    }
    pair_columns(p, rows, wide, p_pairs);
    pair_gemm(rows, deep, keys / 2, p_pairs, wide / 2, 1, v, deep, out, deep, false);
    scatter(out, deep, rows, dim, 1.0f, op.o + token * op.o_stride + tile.head * dim, op.o_stride);
  }
}

struct PairScratch {
  uint32_t *kt, *vt, *k, *q, *d_o, *wide;
  float *p, *ds, *dk, *dv, *out, *factors;
};

PairScratch backward_scratch(const Tile& tile, bool dropout) {
  const int64_t wide = tile.padded_length, deep = tile.padded_dim;
  return {pair_scratch(kKtSlot, tile.dim / 2 * wide),
          pair_scratch(kVtSlot, tile.dim / 2 * wide),
          pair_scratch(kKSlot, wide / 2 * deep),
          pair_scratch(kQSlot, kRowBlock / 2 * deep),
          pair_scratch(kDoSlot, kRowBlock / 2 * deep),
          pair_scratch(kWidePairSlot, kRowBlock / 2 * wide),
          thread_scratch(kPSlot, kRowBlock * wide + 128),
          thread_scratch(kDsSlot, kRowBlock * wide),
          thread_scratch(kDkSlot, wide * deep),
          thread_scratch(kDvSlot, wide * deep),
          thread_scratch(kOutSlot, kRowBlock * deep),
          dropout ? thread_scratch(kMaskSlot, kRowBlock * wide + 128) : nullptr};
}

void backward_block(const SegmentAttentionBackward<Bfloat16>& op, const Tile& tile, const PairScratch& t,
                    int64_t i0) {
  const SegmentAttention<Bfloat16>& f = op.forward;
  const int64_t dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const int64_t rows = tile.queries - i0 < kRowBlock ? tile.queries - i0 : kRowBlock;
  const int64_t token = tile.first_query + i0, column = tile.head * dim;
  const int64_t keys = round_up(f.causal ? i0 + rows : tile.length, 16), pairs = (rows + 1) / 2;
  const float scale = static_cast<float>(f.scale);
  const Bfloat16 *q = f.q + token * f.q_stride + column, *d_o = op.d_o + token * f.o_stride + column;
  interleave_rows(q, f.q_stride, rows, 2 * pairs, dim, deep, t.q);
  interleave_rows(d_o, f.o_stride, rows, 2 * pairs, dim, deep, t.d_o);
  pair_gemm(rows, wide, dim / 2, as_pairs(q), f.q_stride / 2, 1, t.kt, wide, t.p, wide, false);
  scale_rows(t.p, rows * wide, scale);
  probability_rows(tile, f.causal, i0, rows, t.p, f.lse + token * f.heads + tile.head, f.heads);
  pair_gemm(rows, wide, dim / 2, as_pairs(d_o), f.o_stride / 2, 1, t.vt, wide, t.ds, wide, false);
  score_gradients(f.mask, tile, i0, rows, t.p, t.ds, t.factors);
  pair_rows_of(t.p, rows, wide, t.wide);
  pair_gemm(keys, deep, pairs, t.wide, 1, wide, t.d_o, deep, t.dv, deep, true);
  scale_rows(t.ds, rows * wide, scale);
  pair_rows_of(t.ds, rows, wide, t.wide);
  pair_gemm(keys, deep, pairs, t.wide, 1, wide, t.q, deep, t.dk, deep, true);
  pair_columns(t.ds, rows, wide, t.wide);
  pair_gemm(rows, deep, keys / 2, t.wide, wide / 2, 1, t.k, deep, t.out, deep, false);
  scatter(t.out, deep, rows, dim, 1.0f, op.dq + token * f.q_stride + column, f.q_stride);
}

// All query heads that read one key head, so that dk and dv have one writer.
void backward_group(const SegmentAttentionBackward<Bfloat16>& op, int64_t segment, int64_t kv_head) {
  const SegmentAttention<Bfloat16>& f = op.forward;
  const int64_t group = f.heads / f.kv_heads;
  Tile tile = make_tile(f, segment, kv_head * group);
  if (tile.length == 0) return;
  const int64_t deep = tile.padded_dim, dim = tile.dim, wide = tile.padded_length;
  const PairScratch t = backward_scratch(tile, f.mask.active());
  const int64_t k_offset = tile.first_token * f.k_stride + kv_head * dim;
  const int64_t v_offset = tile.first_token * f.v_stride + kv_head * dim;
  transpose_pairs(f.k + k_offset, f.k_stride, tile.length, dim, wide, t.kt);
  transpose_pairs(f.v + v_offset, f.v_stride, tile.length, dim, wide, t.vt);
  interleave_rows(f.k + k_offset, f.k_stride, tile.length, wide, dim, deep, t.k);
  std::memset(t.dk, 0, sizeof(float) * static_cast<size_t>(wide * deep));
  std::memset(t.dv, 0, sizeof(float) * static_cast<size_t>(wide * deep));
  for (int64_t h = 0; h < group; ++h) {
    tile.head = kv_head * group + h;
    for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock) backward_block(op, tile, t, i0);
  }
  scatter(t.dk, deep, tile.length, dim, 1.0f, op.dk + k_offset, f.k_stride);
  scatter(t.dv, deep, tile.length, dim, 1.0f, op.dv + v_offset, f.v_stride);
}

// Pairs need even widths, and offsets of gathers are 32-bit.
bool is_suitable(const SegmentAttention<Bfloat16>& op) {
  constexpr int64_t kLongestStride = 1 << 24;
  const int64_t strides = op.q_stride | op.k_stride | op.v_stride | op.o_stride;
  return op.head_dim % 2 == 0 && strides % 2 == 0 && strides < kLongestStride;
}

}  // namespace

bool attention_in_pairs(const SegmentAttention<Bfloat16>& op) {
  if (!is_suitable(op)) return false;
  const int64_t tasks = op.segments * op.heads;
#pragma omp parallel for schedule(dynamic) if (op.cu_seqlens[op.segments] > 16)
  for (int64_t task = 0; task < tasks; ++task) {
    const Tile tile = make_tile(op, task / op.heads, task % op.heads);
    if (tile.length > 0) forward_head(op, tile);
  }
  return true;
}

bool attention_in_pairs_backward(const SegmentAttentionBackward<Bfloat16>& op) {
  const SegmentAttention<Bfloat16>& f = op.forward;
  if (!is_suitable(f)) return false;
  const int64_t tasks = f.segments * f.kv_heads;
#pragma omp parallel for schedule(dynamic) if (f.cu_seqlens[f.segments] > 16)
  for (int64_t task = 0; task < tasks; ++task) backward_group(op, task / f.kv_heads, task % f.kv_heads);
  return true;
}

#else

bool attention_in_pairs(const SegmentAttention<Bfloat16>&) {
  return false;
}
bool attention_in_pairs_backward(const SegmentAttentionBackward<Bfloat16>&) {
  return false;
}

#endif

}  // namespace msplora::kernels::MSPLORA_ISA
