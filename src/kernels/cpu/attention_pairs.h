#pragma once

// Attention on products of bfloat16 pairs. Operands are arrays of pairs (uint32_t): neighbours in a row where
// the row is the summed dimension, two rows interleaved where the column is. Probabilities and score
// gradients are rounded to bfloat16 before they enter a product, as in FlashAttention; softmax, masks and
// sums stay in float.
#include <cmath>

#include "kernels/cpu/attention_few.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/transpose_words.h"

#if defined(__AVX512BF16__)
namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kWidePairSlot = 15, kGradientPairSlot = 22, kGradientRowSlot = 23;

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
// A mask of the lanes below `count`.
MSPLORA_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFFu : (count <= 0 ? 0u : (1u << count) - 1u));
}
MSPLORA_INLINE VecF only(VecF v, __mmask16 lanes) {
  return (VecF)_mm512_maskz_mov_ps(lanes, (__m512)v);
}
// A mask of the lanes of the vector at column j that a row sees.
MSPLORA_INLINE __mmask16 seen_lanes(Keys seen, int64_t j) {
  return static_cast<__mmask16>(first_lanes(seen.end - j) & ~first_lanes(seen.begin - j));
}

// 2^x to about 2 ulp, for x <= 127; 0 far below.
MSPLORA_INLINE VecF exp2(VecF x) {
  const __m512 n = _mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const VecF f = x - (VecF)n;
  VecF p = splat(1.535336188319500e-4f);
  p = p * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
  return (VecF)_mm512_scalef_ps((__m512)p, n);
}

// The same rows of the next head follow those of this one; strides are too wide for the processor to guess.
MSPLORA_INLINE void prefetch(const Bfloat16* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}

// Rows of `dim` values -> to[kept, wide]: pair p of every row, the rows side by side; zero beyond `rows` and
// dim. `kept`: dim / 2 or more, and not above the next multiple of 16.
inline void transpose_pairs(const Bfloat16* from, int64_t stride, int64_t rows, int64_t dim, int64_t kept,
                            int64_t wide, uint32_t* to) {
  const int64_t pairs = dim / 2;
  for (int64_t r = 0; r < wide; r += 16) {
    for (int64_t p = 0; p < pairs; p += 16) {
      const __mmask16 valid = first_lanes(pairs - p);
      __m512i v[16];
      for (int64_t i = 0; i < 16; ++i)
        v[i] = _mm512_maskz_loadu_epi32(r + i < rows ? valid : __mmask16{0}, from + (r + i) * stride + 2 * p);
      for (int64_t i = 0; i < 16; ++i) prefetch(from + (r + i) * stride + dim + 2 * p);
      transpose_words(v);
      const int64_t columns = kept - p < 16 ? kept - p : 16;
      for (int64_t i = 0; i < columns; ++i) _mm512_storeu_si512(to + (p + i) * wide + r, v[i]);
    }
  }
}

// Rows of `dim` values -> to[padded_rows / 2, deep]: rows 2p and 2p + 1 interleaved, zero outside.
inline void interleave_rows(const Bfloat16* from, int64_t stride, int64_t rows, int64_t padded_rows,
                            int64_t dim, int64_t deep, uint32_t* to) {
  for (int64_t p = 0; p < padded_rows / 2; ++p) {
    for (int64_t d = 0; d < deep; d += 16) {
      const __mmask16 valid = first_lanes(dim - d);
      const auto half = [&](int64_t r) {
        const __mmask16 mask = r < rows ? valid : __mmask16{0};
        return (VecU)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from + r * stride + d));
      };
      store_u32(to + p * deep + d, half(2 * p) | (half(2 * p + 1) << 16));
      if (d % 32 == 0) {
        prefetch(from + 2 * p * stride + dim + d);
        prefetch(from + (2 * p + 1) * stride + dim + d);
      }
    }
  }
}

// Rows 2p and 2p + 1 as pairs down a column, from the same 16 columns of both.
MSPLORA_INLINE VecU pair_down(VecF even, VecF odd) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);  // even in the lower half
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (VecU)_mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both);
}

// The rows of q or dO as pairs; the kernels read them where they lie.
MSPLORA_INLINE const uint32_t* as_pairs(const Bfloat16* p) {
  return reinterpret_cast<const uint32_t*>(p);
}

inline uint32_t* pair_scratch(int slot, int64_t count) {
  return reinterpret_cast<uint32_t*>(thread_scratch(slot, count));
}

constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

// Raw products of one row -> e^(scale s - top), as bfloat16, dropped ones and hidden columns zero. Returns
// the sum over all keys seen, dropped ones too; `lse` gets its logarithm and top. `first` is the row's place
// in the mask.
MSPLORA_INLINE float softmax_row(const float* s, Keys seen, const Columns& columns, float scale,
                                 const MaskBits& mask, int64_t first, Bfloat16* p, float* lse) {
  // Whole vectors [begin, end), and one at each end of which some lanes are seen.
  if (seen.begin == seen.end) {
    for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes) store(p + j, splat(0.0f));
    if (lse) *lse = -INFINITY;
    return 0.0f;
  }
  const int64_t begin = round_up(seen.begin, kLanes), end = seen.end / kLanes * kLanes;
  const int64_t ends[2] = {begin - kLanes, end};
  const __mmask16 parts[2] = {begin > seen.begin ? seen_lanes(seen, ends[0]) : __mmask16{0},
                              end >= begin ? first_lanes(seen.end - end) : __mmask16{0}};
  VecF best = splat(-INFINITY);
  for (int64_t j = begin; j < end; j += kLanes) best = vmax(load(s + j), best);
  for (int i = 0; i < 2; ++i) {
    if (parts[i])
      best = (VecF)_mm512_mask_max_ps((__m512)best, parts[i], (__m512)load(s + ends[i]), (__m512)best);
  }
  const float top = max_lanes(best) * scale;
  const VecF factor = splat(scale * kLog2E), shift = splat(top * kLog2E);
  VecF sum = splat(0.0f);
  for (int64_t j = columns.begin; j < seen.begin / kLanes * kLanes; j += kLanes) store(p + j, splat(0.0f));
  for (int64_t j = begin; j < end; j += kLanes) {
    const VecF e = exp2(load(s + j) * factor - shift);
    sum += e;
    store(p + j, mask.active() ? keep(e, mask, first + j) : e);
  }
  for (int i = 0; i < 2; ++i) {
    if (!parts[i]) continue;
    const VecF e = only(exp2(load(s + ends[i]) * factor - shift), parts[i]);
    sum += e;
    store(p + ends[i], mask.active() ? keep(e, mask, first + ends[i]) : e);
  }
  for (int64_t j = round_up(seen.end, kLanes); j < columns.padded_end; j += kLanes) store(p + j, splat(0.0f));
  const float total = sum_lanes(sum);
  if (lse) *lse = top + __builtin_logf(total);
  return total;
}

// The left operand of a product: pair p of row i is at[i * stride + p].
struct LeftPairs {
  const uint32_t* at;
  int64_t stride;
};

// One head of one segment. Products say how operands lie and multiply them:
//   depth(dim)           pairs that a row of q and of k takes
//   pair_stride(wide)    pairs from one row of probabilities to the next
//   left(x, stride, rows, dim, slot)   rows as the left operand; where they lie, or in scratch
//   multiply(m, n, k, a, b, ldb, c, ldc)   c[m, n] = a b over k pairs; m at most kRowBlock
template <typename Products>
void forward_head(const Attention<Bfloat16>& op, const Tile& tile) {
  const int64_t dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const int64_t kv_head = tile.head / (op.heads / op.kv_heads);
  const int64_t depth = Products::depth(dim), stride = Products::pair_stride(wide);
  uint32_t* kt = pair_scratch(kKtSlot, depth * wide);
  uint32_t* v = pair_scratch(kVSlot, wide / 2 * deep);
  float* s = thread_scratch(kPSlot, kRowBlock * wide);
  uint32_t* p = pair_scratch(kWidePairSlot, kRowBlock * stride);
  float* out = thread_scratch(kOutSlot, kRowBlock * deep);
  const float mask_scale = op.mask.active() ? static_cast<float>(op.mask.scale()) : 1.0f;
  transpose_pairs(op.k + tile.first_key * op.k_stride + kv_head * dim, op.k_stride, tile.length, dim, depth,
                  wide, kt);
  interleave_rows(op.v + tile.first_key * op.v_stride + kv_head * dim, op.v_stride, tile.length, wide, dim,
                  deep, v);
  for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock) {
    const int64_t rows = tile.queries - i0 < kRowBlock ? tile.queries - i0 : kRowBlock;
    const int64_t row = tile.first_query + i0;
    const Columns columns = columns_of(tile, i0, rows);
    if (columns.none()) {
      attend_to_nothing(op, tile, i0, rows);
      continue;
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < dim; d += 32)
        prefetch(op.q + (row + r) * op.q_stride + (tile.head + 1) * dim + d);
    const LeftPairs q =
        Products::left(op.q + row * op.q_stride + tile.head * dim, op.q_stride, rows, dim, kQSlot);
    Products::multiply(rows, columns.count(), depth, q, kt + columns.begin, wide, s + columns.begin, wide);
    const MaskBits mask = block_mask(op.mask, tile, i0, rows, columns);
    float inverse[kRowBlock];
    for (int64_t r = 0; r < rows; ++r) {
      float* lse = op.lse ? op.lse + (row + r) * op.heads + tile.head : nullptr;
      const float sum =
          softmax_row(s + r * wide, visible(tile, i0 + r), columns, static_cast<float>(op.scale), mask,
                      r * wide, reinterpret_cast<Bfloat16*>(p + r * stride), lse);
      inverse[r] = sum > 0.0f ? mask_scale / sum : sum;  // 0 where no key is seen, NaN where the sum is
    }
    Products::multiply(rows, deep, columns.count() / 2, {p + columns.begin / 2, stride},
                       v + columns.begin / 2 * deep, deep, out, deep);
    for (int64_t r = 0; r < rows; ++r) {
      scatter(out + r * deep, deep, 1, dim, inverse[r], op.o + (row + r) * op.o_stride + tile.head * dim,
              op.o_stride);
    }
  }
}

// What backward keeps of a block of query rows: products, then probabilities; dP; and as pairs, down the
// columns or along the rows, `row_stride` pairs apart.
struct PairScratch {
  float *s, *dp;
  uint32_t *p, *ds, *ds_rows;
  int64_t row_stride;
};

// What one row of score_gradients (attention_tile.h) needs: p in place of the products in s, zero for hidden
// keys. Returns delta.
MSPLORA_INLINE float prepare_row(float* s, const float* dp, Keys seen, const Columns& columns, float scale,
                                 float lse, const MaskBits& mask, int64_t first, float mask_scale) {
  const VecF factor = splat(scale * kLog2E), shift = splat(lse * kLog2E);
  VecF weighted = splat(0.0f), total = splat(0.0f);
  for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes) {
    const VecF p = only(exp2(load(s + j) * factor - shift), seen_lanes(seen, j));
    const VecF kept = mask.active() ? keep(p, mask, first + j) : p;
    weighted += kept * load(dp + j);
    total += p;
    store(s + j, p);
  }
  const float sum = sum_lanes(total);
  return sum > 0.0f ? mask_scale * sum_lanes(weighted) / sum : 0.0f;
}

// Two rows of scores and of dP -> masked probabilities and scaled score gradients, as pairs down the columns,
// and the gradients also along the rows.
MSPLORA_INLINE void gradient_rows(const PairScratch& t, const float* delta, int64_t r, int64_t wide,
                                  const Columns& columns, float scale, const MaskBits& mask,
                                  float mask_scale) {
  for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes) {
    VecF p[2], ds[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t at = (r + i) * wide + j;
      p[i] = load(t.s + at);
      const VecF gradient = load(t.dp + at) * mask_scale;
      ds[i] = p[i] * scale * ((mask.active() ? keep(gradient, mask, at) : gradient) - delta[i]);
      p[i] = (mask.active() ? keep(p[i], mask, at) : p[i]) * mask_scale;
    }
    store_u32(t.p + r / 2 * wide + j, pair_down(p[0], p[1]));
    store_u32(t.ds + r / 2 * wide + j, pair_down(ds[0], ds[1]));
    for (int i = 0; i < 2; ++i)
      store(reinterpret_cast<Bfloat16*>(t.ds_rows + (r + i) * t.row_stride) + j, ds[i]);
  }
}

// Fills the columns of t.p, t.ds and t.ds_rows from t.s and t.dp; an odd last row is paired with zeros.
inline void block_gradients(const Attention<Bfloat16>& f, const Tile& tile, const PairScratch& t, int64_t i0,
                            int64_t rows, const Columns& columns) {
  const int64_t wide = tile.padded_length;
  const MaskBits mask = block_mask(f.mask, tile, i0, rows, columns);
  const float mask_scale = mask.active() ? static_cast<float>(f.mask.scale()) : 1.0f;
  const float scale = static_cast<float>(f.scale);
  const float* lse = f.lse + (tile.first_query + i0) * f.heads + tile.head;
  float delta[kRowBlock + 1];
  for (int64_t r = 0; r < rows; ++r) {
    delta[r] = prepare_row(t.s + r * wide, t.dp + r * wide, visible(tile, i0 + r), columns, scale,
                           lse[r * f.heads], mask, r * wide, mask_scale);
  }
  if (rows % 2 != 0) {
    const int64_t odd_row = rows * wide + columns.begin;
    std::memset(t.s + odd_row, 0, sizeof(float) * static_cast<size_t>(columns.count()));
    std::memset(t.dp + odd_row, 0, sizeof(float) * static_cast<size_t>(columns.count()));
    delta[rows] = 0.0f;
  }
  for (int64_t r = 0; r < rows; r += 2)
    gradient_rows(t, delta + r, r, wide, columns, scale, mask, mask_scale);
}

// Pairs need even widths, and offsets of gathers are 32-bit. What scores get beside products is added in
// float.
inline bool is_suitable(const Attention<Bfloat16>& op) {
  constexpr int64_t kLongestStride = 1 << 24;
  const int64_t strides = op.q_stride | op.k_stride | op.v_stride | op.o_stride;
  return op.head_dim % 2 == 0 && strides % 2 == 0 && strides < kLongestStride && op.relative == nullptr &&
         op.soft_cap <= 0;
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
#endif
