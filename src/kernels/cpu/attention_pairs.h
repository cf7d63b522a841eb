#pragma once

// Attention on products of bfloat16 pairs. Operands are arrays of pairs (uint32_t): neighbours in a row where
// the row is the summed dimension, two rows interleaved where the column is. Of Bfloat16, probabilities and
// score gradients are rounded before they enter a product, as in FlashAttention; of float, all operands are
// sums of parts. Softmax, masks and sums stay in float.
#include <cmath>
#include <type_traits>

#include "kernels/cpu/attention_few.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/parts.h"
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

// Operands: pair p of row i is at[i * stride + p], parts of floats lie `part` pairs apart.
template <typename Word>
struct PairView {
  Word* at;
  int64_t stride, part;

  PairView from(int64_t row, int64_t pair) const { return {at + row * stride + pair, stride, part}; }
  operator PairView<const uint32_t>() const requires(!std::is_const_v<Word>) { return {at, stride, part}; }
};
using Pairs = PairView<const uint32_t>;
using PairArray = PairView<uint32_t>;

// Scratch memory of so many rows of pairs, in each part.
template <int kParts>
PairArray pair_array(int slot, int64_t rows, int64_t stride) {
  return {reinterpret_cast<uint32_t*>(thread_scratch(slot, kParts * rows * stride)), stride, rows * stride};
}

// The same rows of the next head follow those of this one; strides are too wide for the processor to guess.
template <typename T>
MSPLORA_INLINE void prefetch_numbers(const T* p) {
  for (int64_t at = 0; at < kNumbers; at += 64 / static_cast<int64_t>(sizeof(T)))
    _mm_prefetch(reinterpret_cast<const char*>(p + at), _MM_HINT_T0);
}

// Rows of `dim` numbers, transposed: row p of `to` has pair p of every row, zero beyond `rows` and dim; it
// has `kept` rows, dim / 2 or more, and not above the next multiple of 16.
template <int kParts, typename T>
void transpose_pairs(const T* from, int64_t stride, int64_t rows, int64_t dim, int64_t kept, PairArray to) {
  for (int64_t r = 0; r < to.stride; r += 16) {
    for (int64_t p = 0; 2 * p < dim; p += kPairs) {
      __m512i v[kParts][16];
      for (int64_t i = 0; i < 16; ++i) {
        __m512i words[kParts];
        load_parts(from + (r + i) * stride + 2 * p, first_numbers(r + i < rows ? dim - 2 * p : 0), words);
        for (int part = 0; part < kParts; ++part) v[part][i] = words[part];
      }
      for (int64_t i = 0; i < 16; ++i) prefetch_numbers(from + (r + i) * stride + dim + 2 * p);
      const int64_t columns = kept - p < 16 ? kept - p : 16;
      for (int part = 0; part < kParts; ++part) {
        transpose_words(v[part]);
        uint32_t* const column = to.at + part * to.part + p * to.stride + r;
        for (int64_t i = 0; i < columns; ++i) _mm512_storeu_si512(column + i * to.stride, v[part][i]);
      }
    }
  }
}

// Rows of `dim` numbers, interleaved: row p of `to` has the pairs of rows 2p and 2p + 1, zero outside.
template <int kParts, typename T>
void interleave_rows(const T* from, int64_t stride, int64_t rows, int64_t padded_rows, int64_t dim,
                     PairArray to) {
  for (int64_t p = 0; p < padded_rows / 2; ++p) {
    const T *even = from + 2 * p * stride, *odd = even + stride;
    for (int64_t d = 0; d < to.stride; d += 16) {
      const __mmask16 valid = first_lanes(dim - d);
      VecU pairs[kParts];
      load_pairs(even + d, odd + d, 2 * p < rows ? valid : __mmask16{0},
                 2 * p + 1 < rows ? valid : __mmask16{0}, pairs);
      for (int part = 0; part < kParts; ++part)
        store_u32(to.at + part * to.part + p * to.stride + d, pairs[part]);
      if (d % kNumbers == 0) prefetch_numbers(even + dim + d), prefetch_numbers(odd + dim + d);
    }
  }
}

constexpr float kLog2E = 1.44269504088896341f;

// Raw products of one row -> e^(scale s - top), dropped ones and hidden columns zero, as a row of pairs.
// Returns the sum over all keys seen, dropped ones too; `lse` gets its logarithm and top. `first` is the
// row's place in the mask.
template <int kParts>
MSPLORA_INLINE float softmax_row(const float* s, Keys seen, const Columns& columns, float scale,
                                 const MaskBits& mask, int64_t first, PairArray row, float* lse) {
  const auto put = [&](int64_t j, VecF e) __attribute__((always_inline)) {
    store_parts<kParts>(reinterpret_cast<Number*>(row.at) + j, 2 * row.part, e);
  };
  // Whole vectors [begin, end), and one at each end of which some lanes are seen.
  if (seen.begin == seen.end) {
    for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes) put(j, splat(0.0f));
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
  for (int64_t j = columns.begin; j < seen.begin / kLanes * kLanes; j += kLanes) put(j, splat(0.0f));
  for (int64_t j = begin; j < end; j += kLanes) {
    const VecF e = exp2(load(s + j) * factor - shift);
    sum += e;
    put(j, mask.active() ? keep(e, mask, first + j) : e);
  }
  for (int i = 0; i < 2; ++i) {
    if (!parts[i]) continue;
    const VecF e = only(exp2(load(s + ends[i]) * factor - shift), parts[i]);
    sum += e;
    put(ends[i], mask.active() ? keep(e, mask, first + ends[i]) : e);
  }
  for (int64_t j = round_up(seen.end, kLanes); j < columns.padded_end; j += kLanes) put(j, splat(0.0f));
  const float total = sum_lanes(sum);
  if (lse) *lse = top + __builtin_logf(total);
  return total;
}

// One head of one segment. Products say how operands lie and multiply them:
//   kParts               of a number
//   depth(dim)           pairs that a row of q and of k takes
//   pair_stride(wide)    pairs from one row of probabilities to the next
//   left(x, stride, rows, dim, slot)   rows as the left operand; where they lie, or in scratch
//   multiply(m, n, k, a, b, c, ldc)    c[m, n] = a b over k pairs; m at most kRowBlock
template <typename Products, typename T>
void forward_head(const Attention<T>& op, const Tile& tile) {
  constexpr int kParts = Products::kParts;
  const int64_t dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const int64_t kv_head = tile.head / (op.heads / op.kv_heads), depth = Products::depth(dim);
  const PairArray kt = pair_array<kParts>(kKtSlot, depth, wide),
                  v = pair_array<kParts>(kVSlot, wide / 2, deep),
                  p = pair_array<kParts>(kWidePairSlot, kRowBlock, Products::pair_stride(wide));
  float* s = thread_scratch(kPSlot, kRowBlock * wide);
  float* out = thread_scratch(kOutSlot, kRowBlock * deep);
  const float mask_scale = op.mask.active() ? static_cast<float>(op.mask.scale()) : 1.0f;
  transpose_pairs<kParts>(op.k + tile.first_key * op.k_stride + kv_head * dim, op.k_stride, tile.length, dim,
                          depth, kt);
  interleave_rows<kParts>(op.v + tile.first_key * op.v_stride + kv_head * dim, op.v_stride, tile.length, wide,
                          dim, v);
  for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock) {
    const int64_t rows = tile.queries - i0 < kRowBlock ? tile.queries - i0 : kRowBlock;
    const int64_t row = tile.first_query + i0;
    const Columns columns = columns_of(tile, i0, rows);
    if (columns.none()) {
      attend_to_nothing(op, tile, i0, rows);
      continue;
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < dim; d += kNumbers)
        prefetch_numbers(op.q + (row + r) * op.q_stride + (tile.head + 1) * dim + d);
    const Pairs q =
        Products::left(op.q + row * op.q_stride + tile.head * dim, op.q_stride, rows, dim, kQSlot);
    Products::multiply(rows, columns.count(), depth, q, kt.from(0, columns.begin), s + columns.begin, wide);
    const MaskBits mask = block_mask(op.mask, tile, i0, rows, columns);
    float inverse[kRowBlock];
    for (int64_t r = 0; r < rows; ++r) {
      float* lse = op.lse ? op.lse + (row + r) * op.heads + tile.head : nullptr;
      const float sum = softmax_row<kParts>(s + r * wide, visible(tile, i0 + r), columns,
                                            static_cast<float>(op.scale), mask, r * wide, p.from(r, 0), lse);
      inverse[r] = sum > 0.0f ? mask_scale / sum : sum;  // 0 where no key is seen, NaN where the sum is
    }
    Products::multiply(rows, deep, columns.count() / 2, p.from(0, columns.begin / 2),
                       v.from(columns.begin / 2, 0), out, deep);
    for (int64_t r = 0; r < rows; ++r) {
      scatter(out + r * deep, deep, 1, dim, inverse[r], op.o + (row + r) * op.o_stride + tile.head * dim,
              op.o_stride);
    }
  }
}

// What backward keeps of a block of query rows: products, then probabilities; dP; and as pairs, down the
// columns or along the rows.
struct BlockScratch {
  float *s, *dp;
  PairArray p, ds, ds_rows;
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
template <int kParts>
MSPLORA_INLINE void gradient_rows(const BlockScratch& t, const float* delta, int64_t r, int64_t wide,
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
      store_parts<kParts>(reinterpret_cast<Number*>(t.ds_rows.from(r + i, 0).at) + j, 2 * t.ds_rows.part,
                          ds[i]);
    }
    for (int part = 0; part < kParts; ++part) {
      store_u32(t.p.from(r / 2, j).at + part * t.p.part, take_pairs(p[0], p[1]));
      store_u32(t.ds.from(r / 2, j).at + part * t.ds.part, take_pairs(ds[0], ds[1]));
    }
  }
}

// Fills the columns of t.p, t.ds and t.ds_rows from t.s and t.dp; an odd last row is paired with zeros.
template <int kParts, typename T>
void block_gradients(const Attention<T>& f, const Tile& tile, const BlockScratch& t, int64_t i0, int64_t rows,
                     const Columns& columns) {
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
    gradient_rows<kParts>(t, delta + r, r, wide, columns, scale, mask, mask_scale);
}

// Pairs need even widths, and offsets of gathers are 32-bit. What scores get beside products is added in
// float.
template <typename T>
bool is_suitable(const Attention<T>& op) {
  constexpr int64_t kLongestStride = 1 << 24;
  const int64_t strides = op.q_stride | op.k_stride | op.v_stride | op.o_stride;
  return op.head_dim % 2 == 0 && strides % 2 == 0 && strides < kLongestStride && op.relative == nullptr &&
         op.soft_cap <= 0;
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
#endif
