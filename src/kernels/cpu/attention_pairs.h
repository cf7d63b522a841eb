#pragma once

// Attention on products of bfloat16 pairs (pair_operands.h). Of Bfloat16, probabilities and score gradients
// are rounded before they enter a product, as in FlashAttention; of float, all operands are sums of parts.
// Softmax, masks, terms and sums stay in float.
#include <cmath>

#include "kernels/cpu/attention_few.h"
#include "kernels/cpu/attention_pair_terms.h"

#if defined(__AVX512BF16__)
namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kWidePairSlot = 15, kGradientPairSlot = 22, kGradientRowSlot = 23;

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

constexpr float kLog2E = 1.44269504088896341f;

// Raw products of one row -> e^(scale s - top), dropped ones and hidden columns zero, as a row of pairs.
// Returns the sum over all keys seen, dropped ones too; `lse` gets its logarithm and top. `first` is the
// row's place in the mask.
template <int kParts>
MSPLORA_INLINE float softmax_row(const float* s, Keys seen, const Columns& columns, float scale,
                                 const MaskBits& mask, int64_t first, PairArray row, float* lse) {
  const auto put = [&](int64_t j, VecF e) __attribute__((always_inline)) {
    store_numbers<kParts>(row, j, e);
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
void forward_head(const Attention<T>& op, const Tile& tile, PairTerms& terms) {
  constexpr int kParts = Products::kParts;
  prepare_terms<Products>(op, tile, false, terms);
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
    const float scale =
        complete_scores<Products>(tile, terms, q, i0, rows, columns, static_cast<float>(op.scale), s);
    const MaskBits mask = block_mask(op.mask, tile, i0, rows, columns);
    float inverse[kRowBlock];
    for (int64_t r = 0; r < rows; ++r) {
      float* lse = op.lse ? op.lse + (row + r) * op.heads + tile.head : nullptr;
      const float sum = softmax_row<kParts>(s + r * wide, visible(tile, i0 + r), columns, scale, mask,
                                            r * wide, p.from(r, 0), lse);
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

// How the scores of a block were formed: their scale, that of what stands inside of a cap, the cap's slope
// and whether dP is to hold the gradients of what stands inside, without the scale.
struct ScoreForm {
  float scale, inner_scale;
  float* slope;
  bool keeps_gradients;

  ScoreForm(float scale, double inner_scale, const Terms& terms)
      : scale(scale),
        inner_scale(static_cast<float>(inner_scale)),
        slope(terms.slope),
        keeps_gradients(terms.bucket_of != nullptr) {}
  bool is_plain() const { return slope == nullptr && !keeps_gradients; }
};

// Two rows of scores and of dP -> masked probabilities and scaled score gradients, as pairs down the columns,
// and the gradients also along the rows.
template <int kParts, bool kIsPlain>
MSPLORA_INLINE void gradient_rows(const BlockScratch& t, const float* delta, int64_t r, int64_t wide,
                                  const Columns& columns, const ScoreForm& form, const MaskBits& mask,
                                  float mask_scale) {
  for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes) {
    VecF p[2], ds[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t at = (r + i) * wide + j;
      p[i] = load(t.s + at);
      VecF gradient = load(t.dp + at) * mask_scale;
      gradient = (mask.active() ? keep(gradient, mask, at) : gradient) - delta[i];
      if (kIsPlain) {
        ds[i] = p[i] * form.inner_scale * gradient;
      } else {
        VecF inner = p[i] * gradient;
        if (form.slope) inner *= load(form.slope + at);
        if (form.keeps_gradients) store(t.dp + at, inner);
        ds[i] = inner * form.inner_scale;
      }
      p[i] = (mask.active() ? keep(p[i], mask, at) : p[i]) * mask_scale;
      store_numbers<kParts>(t.ds_rows.from(r + i, 0), j, ds[i]);
    }
    store_columns<kParts>(t.p.from(r / 2, j), p[0], p[1]);
    store_columns<kParts>(t.ds.from(r / 2, j), ds[0], ds[1]);
  }
}

// Fills the columns of t.p, t.ds and t.ds_rows from t.s and t.dp; an odd last row is paired with zeros.
template <int kParts, typename T>
void block_gradients(const Attention<T>& f, const Tile& tile, const BlockScratch& t, int64_t i0, int64_t rows,
                     const Columns& columns, const ScoreForm& form) {
  const int64_t wide = tile.padded_length;
  const MaskBits mask = block_mask(f.mask, tile, i0, rows, columns);
  const float mask_scale = mask.active() ? static_cast<float>(f.mask.scale()) : 1.0f;
  const float* lse = f.lse + (tile.first_query + i0) * f.heads + tile.head;
  float delta[kRowBlock + 1];
  for (int64_t r = 0; r < rows; ++r) {
    delta[r] = prepare_row(t.s + r * wide, t.dp + r * wide, visible(tile, i0 + r), columns, form.scale,
                           lse[r * f.heads], mask, r * wide, mask_scale);
  }
  if (rows % 2 != 0) {
    for (float* const array : {t.s, t.dp, form.slope}) {
      if (array)
        std::memset(array + rows * wide + columns.begin, 0,
                    sizeof(float) * static_cast<size_t>(columns.count()));
    }
    delta[rows] = 0.0f;
  }
  for (int64_t r = 0; r < rows; r += 2) {
    if (form.is_plain()) {
      gradient_rows<kParts, true>(t, delta + r, r, wide, columns, form, mask, mask_scale);
    } else {
      gradient_rows<kParts, false>(t, delta + r, r, wide, columns, form, mask, mask_scale);
    }
  }
}

// Pairs need even widths, and offsets of gathers are 32-bit; biases are added to unscaled products.
template <typename T>
bool is_suitable(const Attention<T>& op) {
  constexpr int64_t kLongestStride = 1 << 24;
  const int64_t strides = op.q_stride | op.k_stride | op.v_stride | op.o_stride;
  return op.head_dim % 2 == 0 && strides % 2 == 0 && strides < kLongestStride && op.scale > 0;
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
#endif
