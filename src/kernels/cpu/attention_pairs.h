#pragma once

// Attention on products of bfloat16 pairs (pair_operands.h). Of Bfloat16, probabilities and score gradients
// are rounded before they enter a product, as in FlashAttention; of float, all operands are sums of parts.
// Softmax, masks, terms and sums stay in float.
#include <cmath>

#include "kernels/cpu/attention_ahead.h"
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

// The largest score of a row and the sum of what is left of all keys seen, dropped ones too.
struct RowSum {
  float top, sum;
};

// Raw products of one row -> e^(scale s - top), dropped ones and hidden columns zero, as a row of pairs.
// `first` is the row's place in the mask.
template <int kParts>
MSPLORA_INLINE RowSum softmax_row(const float* s, Keys seen, const Columns& columns, float scale,
                                  const MaskBits& mask, int64_t first, PairArray row) {
  const auto put = [&](int64_t j, VecF e) __attribute__((always_inline)) {
    store_numbers<kParts>(row, j, e);
  };
  // Whole vectors [begin, end), and one at each end of which some lanes are seen.
  if (seen.begin == seen.end) {
    for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes) put(j, splat(0.0f));
    return {-INFINITY, 0.0f};
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
  return {top, sum_lanes(sum)};
}

// Rows' top + ln sum; of rows that see nothing -infinity, NaN where the sum is.
inline void store_log_sums(const float* top, const float* sum, int64_t rows, float* lse, int64_t stride) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    float logs[kLanes];
    const VecF value = load(sum + r);
    store(logs, load(top + r) + (log(value) + (value - value)));
    for (int64_t i = 0; i < kLanes && r + i < rows; ++i) lse[(r + i) * stride] = logs[i];
  }
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
  const HeadsAhead<T> ahead(op, tile);
  for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock) {
    const int64_t rows = tile.queries - i0 < kRowBlock ? tile.queries - i0 : kRowBlock;
    const int64_t row = tile.first_query + i0;
    const Columns columns = columns_of(tile, i0, rows);
    if (columns.none()) {
      attend_to_nothing(op, tile, i0, rows);
      continue;
    }
    const Pairs q =
        Products::left(op.q + row * op.q_stride + tile.head * dim, op.q_stride, rows, dim, kQSlot);
    Products::multiply(rows, columns.count(), depth, q, kt.from(0, columns.begin), s + columns.begin, wide);
    const float scale =
        complete_scores<Products>(tile, terms, q, i0, rows, columns, static_cast<float>(op.scale), s);
    const MaskBits mask = block_mask(op.mask, tile, i0, rows, columns);
    float top[kRowBlock] = {}, sums[kRowBlock] = {}, inverse[kRowBlock];
    for (int64_t r = 0; r < rows; ++r) {
      ahead.bring_with(i0 + r);
      const RowSum of_row = softmax_row<kParts>(s + r * wide, visible(tile, i0 + r), columns, scale, mask,
                                                r * wide, p.from(r, 0));
      const float sum = of_row.sum;
      top[r] = of_row.top, sums[r] = sum;
      inverse[r] = sum > 0.0f ? mask_scale / sum : sum;  // 0 where no key is seen, NaN where the sum is
    }
    if (op.lse) store_log_sums(top, sums, rows, op.lse + row * op.heads + tile.head, op.heads);
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
// keys. Returns delta without the mask's scale.
template <bool kIsMasked, bool kSeesAll>
MSPLORA_INLINE float prepare_row(float* s, const float* dp, Keys seen, const Columns& columns, float scale,
                                 float lse, const MaskBits& mask, int64_t first) {
  const VecF factor = splat(scale * kLog2E), shift = splat(lse * kLog2E);
  VecF weighted = splat(0.0f), total = splat(0.0f);
  for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes) {
    VecF p = exp2(load(s + j) * factor - shift);
    if (!kSeesAll) p = only(p, seen_lanes(seen, j));
    const VecF kept = kIsMasked ? keep(p, mask, first + j) : p;
    weighted += kept * load(dp + j);
    total += p;
    store(s + j, p);
  }
  const float sum = sum_lanes(total);
  return sum > 0.0f ? sum_lanes(weighted) / sum : 0.0f;
}

template <bool kIsMasked>
MSPLORA_INLINE float prepare_row(float* s, const float* dp, Keys seen, const Columns& columns, float scale,
                                 float lse, const MaskBits& mask, int64_t first) {
  if (seen.begin <= columns.begin && seen.end >= columns.padded_end)
    return prepare_row<kIsMasked, true>(s, dp, seen, columns, scale, lse, mask, first);
  return prepare_row<kIsMasked, false>(s, dp, seen, columns, scale, lse, mask, first);
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

// Two rows of scores and of dP, from row r on.
struct GradientRows {
  const BlockScratch& scratch;
  const ScoreForm& form;
  const MaskBits& mask;
  float mask_scale;
  const float* delta;
  int64_t r, wide;
};

// 16 columns of them -> masked probabilities and scaled score gradients.
template <bool kIsPlain, bool kIsMasked>
MSPLORA_INLINE void gradient_columns(const GradientRows& rows, int64_t j, VecF (&p)[2], VecF (&ds)[2]) {
  const ScoreForm& form = rows.form;
  for (int i = 0; i < 2; ++i) {
    const int64_t at = (rows.r + i) * rows.wide + j;
    const VecF probability = load(rows.scratch.s + at), delta = splat(rows.delta[i]);
    VecF gradient = load(rows.scratch.dp + at) - delta;
    p[i] = probability * rows.mask_scale;
    if (kIsMasked) {
      const auto kept = static_cast<__mmask16>(MaskBits::lanes(rows.mask, at));
      gradient = (VecF)_mm512_mask_mov_ps((__m512)-delta, kept, (__m512)gradient);
      p[i] = only(p[i], kept);
    }
    if (kIsPlain) {
      ds[i] = probability * (rows.mask_scale * form.inner_scale) * gradient;
      continue;
    }
    VecF inner = probability * rows.mask_scale * gradient;
    if (form.slope) inner *= load(form.slope + at);
    if (form.keeps_gradients) store(rows.scratch.dp + at, inner);
    ds[i] = inner * form.inner_scale;
  }
}

// As pairs down the columns, the gradients also along the rows.
template <int kParts, bool kIsPlain, bool kIsMasked>
MSPLORA_INLINE void gradient_rows(const GradientRows& rows, const Columns& columns) {
  const BlockScratch& t = rows.scratch;
  const auto put_columns = [&](int64_t j, const VecF(&p)[2], const VecF(&ds)[2])
      __attribute__((always_inline)) {
    store_columns<kParts>(t.p.from(rows.r / 2, j), p[0], p[1]);
    store_columns<kParts>(t.ds.from(rows.r / 2, j), ds[0], ds[1]);
  };
  int64_t j = columns.begin;
  for (; j + 2 * kLanes <= columns.padded_end; j += 2 * kLanes) {
    VecF p[2][2], ds[2][2];
    for (int half = 0; half < 2; ++half) {
      gradient_columns<kIsPlain, kIsMasked>(rows, j + half * kLanes, p[half], ds[half]);
      put_columns(j + half * kLanes, p[half], ds[half]);
    }
    for (int i = 0; i < 2; ++i)
      store_all_numbers<kParts>(t.ds_rows.from(rows.r + i, 0), j, ds[0][i], ds[1][i]);
  }
  if (j == columns.padded_end) return;
  VecF p[2], ds[2];
  gradient_columns<kIsPlain, kIsMasked>(rows, j, p, ds);
  put_columns(j, p, ds);
  for (int i = 0; i < 2; ++i) store_numbers<kParts>(t.ds_rows.from(rows.r + i, 0), j, ds[i]);
}

// Fills the columns of t.p, t.ds and t.ds_rows from t.s and t.dp; an odd last row is paired with zeros.
template <int kParts, bool kIsMasked, typename T>
void block_gradients(const Attention<T>& f, const Tile& tile, const BlockScratch& t, int64_t i0, int64_t rows,
                     const Columns& columns, const ScoreForm& form, const MaskBits& mask,
                     const HeadsAhead<T>& ahead) {
  const int64_t wide = tile.padded_length;
  const float mask_scale = kIsMasked ? static_cast<float>(f.mask.scale()) : 1.0f;
  const float* lse = f.lse + (tile.first_query + i0) * f.heads + tile.head;
  float delta[kRowBlock + 1];
  for (int64_t r = 0; r < rows; ++r) {
    ahead.bring_with(i0 + r);
    delta[r] = prepare_row<kIsMasked>(t.s + r * wide, t.dp + r * wide, visible(tile, i0 + r), columns,
                                      form.scale, lse[r * f.heads], mask, r * wide);
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
    const GradientRows two{t, form, mask, mask_scale, delta + r, r, wide};
    if (form.is_plain()) {
      gradient_rows<kParts, true, kIsMasked>(two, columns);
    } else {
      gradient_rows<kParts, false, kIsMasked>(two, columns);
    }
  }
}

template <int kParts, typename T>
void block_gradients(const Attention<T>& f, const Tile& tile, const BlockScratch& t, int64_t i0, int64_t rows,
                     const Columns& columns, const ScoreForm& form, const HeadsAhead<T>& ahead) {
  const MaskBits mask = block_mask(f.mask, tile, i0, rows, columns);
  if (mask.active()) {
    block_gradients<kParts, true>(f, tile, t, i0, rows, columns, form, mask, ahead);
  } else {
    block_gradients<kParts, false>(f, tile, t, i0, rows, columns, form, mask, ahead);
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
