#pragma once

// What scores may be beside scale q kᵀ: terms by distance and a soft cap (Attention in kernels.h), in float.

#include "kernels/cpu/activation_functions.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/small_gemm.h"
#include "kernels/cpu/transpose_words.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kSlopeSlot = 24, kRelativeKeySlot = 25, kRelativeKeyTSlot = 26, kRelativeQuerySlot = 27,
              kRelativeQueryTSlot = 28, kQueryProductSlot = 29, kKeyProductSlot = 30, kQueryGradientSlot = 31,
              kKeyGradientSlot = 32, kRelativeBiasSlot = 33, kRelativeSumSlot = 34, kRunSlot = 39;

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

// [rows, cols], padded to whole vectors -> [cols, to_stride], zero beyond the rows; to_stride is a multiple
// of 16.
inline void transpose(const float* from, int64_t rows, int64_t cols, int64_t from_stride, float* to,
                      int64_t to_stride) {
#if defined(__AVX512F__)
  for (int64_t r = 0; r < to_stride; r += 16) {
    for (int64_t c = 0; c < cols; c += 16) {
      __m512i words[16] = {};
      for (int64_t i = 0; i < 16 && r + i < rows; ++i)
        words[i] = _mm512_loadu_si512(from + (r + i) * from_stride + c);
      transpose_words(words);
      for (int64_t i = 0; i < 16 && c + i < cols; ++i)
        _mm512_storeu_si512(to + (c + i) * to_stride + r, words[i]);
    }
  }
#else
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  for (int64_t c = 0; c < cols; ++c)
    for (int64_t r = rows; r < to_stride; ++r) to[c * to_stride + r] = 0.0f;
#endif
}

// The terms of one head of one segment. Buckets [first, first + count) are those of its distances, in rows
// padded to `wide`. Products hold the scale of scores.
struct Terms {
  const int32_t* bucket_of = nullptr;  // of the distance 0; null: no relative terms
  int64_t reach = 0;
  int64_t first = 0, count = 0, wide = 0;
  const int32_t* runs = nullptr;           // of the distance 0: how many from there on have buckets in a row
  float *key = nullptr, *key_t = nullptr;  // [count, deep], [dim, wide]; null: no such term
  float *query = nullptr, *query_t = nullptr;  // the same, times the scale
  float* bias = nullptr;                       // [count]
  float* query_products = nullptr;             // [kRowBlock, wide]: q · key[b] of a block of rows
  float* key_products = nullptr;               // [length, wide]: k · query[b]
  float cap = 0.0f;                            // 0: none
  float* slope = nullptr;  // [kRowBlock, padded_length]: the cap's derivative; null: not needed

  int64_t bucket(int64_t distance) const {
    const int64_t near = distance > reach ? reach : (distance < -reach ? -reach : distance);
    return bucket_of[near] - first;
  }
};

// Buckets of the distances that occur.
template <typename T>
void find_buckets(const RelativeTerms<T>& relative, const Tile& tile, Terms& terms) {
  terms.reach = relative.reach;
  terms.bucket_of = relative.bucket_of + relative.reach;
  int64_t low = relative.buckets, high = 0;
  const auto limited = [&](int64_t d) {
    return d > terms.reach ? terms.reach : (d < -terms.reach ? -terms.reach : d);
  };
  const int64_t farthest = limited(tile.first_place + tile.queries - 1);
  for (int64_t d = limited(tile.first_place - (tile.length - 1)); d <= farthest; ++d) {
    const int64_t bucket = terms.bucket_of[d];
    low = bucket < low ? bucket : low;
    high = bucket > high ? bucket : high;
  }
  terms.first = low;
  terms.count = high - low + 1;
  terms.wide = round_up(terms.count, 16);
  const int64_t lowest = tile.first_place - (tile.length - 1), last = tile.first_place + tile.queries - 1;
  auto* const runs = reinterpret_cast<int32_t*>(thread_scratch(kRunSlot, last - lowest + 1)) - lowest;
  runs[last] = 1;
  for (int64_t d = last - 1; d >= lowest; --d)
    runs[d] = terms.bucket(d + 1) == terms.bucket(d) + 1 ? runs[d + 1] + 1 : 1;
  terms.runs = runs;
}

// k: the keys in float, [length, padded_dim].
template <typename T>
Terms make_terms(const Attention<T>& op, const Tile& tile, const float* k, bool with_gradient) {
  Terms terms;
  terms.cap = static_cast<float>(op.soft_cap);
  if (terms.cap > 0 && with_gradient)
    terms.slope = thread_scratch(kSlopeSlot, kRowBlock * tile.padded_length);
  if (op.relative == nullptr || tile.length == 0) return terms;
  const RelativeTerms<T>& relative = *op.relative;
  find_buckets(relative, tile, terms);
  const int64_t dim = tile.dim, deep = tile.padded_dim, stride = op.heads * dim;
  const int64_t at = terms.first * stride + tile.head * dim;
  if (relative.key) {
    terms.key = thread_scratch(kRelativeKeySlot, terms.count * deep);
    terms.key_t = thread_scratch(kRelativeKeyTSlot, dim * terms.wide);
    terms.query_products = thread_scratch(kQueryProductSlot, kRowBlock * terms.wide);
    gather(relative.key + at, stride, terms.count, dim, deep, 1.0f, terms.key);
    transpose(terms.key, terms.count, dim, deep, terms.key_t, terms.wide);
  }
  if (relative.query) {
    terms.query = thread_scratch(kRelativeQuerySlot, terms.count * deep);
    terms.query_t = thread_scratch(kRelativeQueryTSlot, dim * terms.wide);
    terms.key_products = thread_scratch(kKeyProductSlot, tile.length * terms.wide);
    gather(relative.query + at, stride, terms.count, dim, deep, static_cast<float>(op.scale), terms.query);
    transpose(terms.query, terms.count, dim, deep, terms.query_t, terms.wide);
    gemm(tile.length, terms.wide, dim, k, deep, 1, terms.query_t, terms.wide, terms.key_products, terms.wide,
         false);
  }
  if (relative.bias) {
    terms.bias = thread_scratch(kRelativeBiasSlot, terms.count);
    for (int64_t b = 0; b < terms.count; ++b)
      terms.bias[b] = relative.bias[(terms.first + b) * op.heads + tile.head];
  }
  return terms;
}

// Up to 16 rows of scores and 16 keys.
struct ScoreBlock {
  int64_t row, rows, key, keys;
  int64_t nearest;  // distance of the first row to the last key
};

// Runs near(block, bucket of the nearest distance) over the blocks of rows [i0, i0 + rows) whose distances
// have buckets in a row, and far(row, keys) over what rows see of others.
template <typename Near, typename Far>
void for_score_blocks(const Tile& tile, const Terms& terms, int64_t i0, int64_t rows, const Columns& columns,
                      const Near& near, const Far& far) {
  const int64_t end = columns.padded_end < tile.length ? columns.padded_end : tile.length;
  for (int64_t row = 0; row < rows; row += 16) {
    for (int64_t key = columns.begin; key < end; key += 16) {
      ScoreBlock block{row, rows - row < 16 ? rows - row : 16, key, end - key < 16 ? end - key : 16, 0};
      block.nearest = tile.first_place + i0 + row - (key + block.keys - 1);
      if (kLanes == 16 && terms.runs[block.nearest] >= block.rows + block.keys - 1) {
        near(block, terms.bucket(block.nearest));
        continue;
      }
      for (int64_t r = row; r < row + block.rows; ++r) {
        Keys seen = visible(tile, i0 + r);
        if (seen.begin < key) seen.begin = key;
        if (seen.end > key + block.keys) seen.end = key + block.keys;
        far(r, seen);
      }
    }
  }
}

// Of a block, row i and key t have the bucket first + i + (keys - 1 - t): along a row they fall, along the
// column of a key they rise. What hidden keys get is never read.
#if defined(__AVX512F__)
MSPLORA_INLINE __m512i reversed(__m512i v) {
  return _mm512_permutexvar_epi32(_mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), v);
}

struct BlockMasks {
  __mmask16 rows, keys, last_keys;  // of the first lanes, and as many keys in the last ones

  explicit BlockMasks(const ScoreBlock& b)
      : rows(static_cast<__mmask16>((1u << b.rows) - 1)),
        keys(static_cast<__mmask16>((1u << b.keys) - 1)),
        last_keys(static_cast<__mmask16>(0xFFFFu << (16 - b.keys))) {}
};

inline void add_near(const Terms& terms, const ScoreBlock& b, int64_t first, int64_t wide, float* s) {
  const BlockMasks masks(b);
  __m512i sums[16] = {};
  for (int64_t t = 0; terms.query && t < b.keys; ++t) {
    const float* const from = terms.key_products + (b.key + t) * terms.wide + first + b.keys - 1 - t;
    sums[t] = _mm512_maskz_loadu_epi32(masks.rows, from);
  }
  if (terms.query) transpose_words(sums);
  for (int64_t i = 0; i < b.rows; ++i) {
    const int64_t lowest = first + b.keys - 16 + i;  // of the key of lane 15
    const auto falling = [&](const float* from) {
      return (VecF)reversed(_mm512_maskz_loadu_epi32(masks.last_keys, from + lowest));
    };
    VecF sum = (VecF)sums[i];
    if (terms.key) sum += falling(terms.query_products + (b.row + i) * terms.wide);
    if (terms.bias) sum += falling(terms.bias);
    float* const to = s + (b.row + i) * wide + b.key;
    _mm512_mask_storeu_ps(to, masks.keys, (__m512)(sum + (VecF)_mm512_maskz_loadu_ps(masks.keys, to)));
  }
}

inline void add_near_gradients(const Terms& terms, const ScoreBlock& b, int64_t first, int64_t wide,
                               const float* ds, float* of_products, float* of_key_products) {
  const BlockMasks masks(b);
  const auto add = [](float* to, __mmask16 lanes, __m512i value) {
    _mm512_mask_storeu_ps(to, lanes, (__m512)((VecF)value + (VecF)_mm512_maskz_loadu_ps(lanes, to)));
  };
  __m512i rows[16] = {};
  for (int64_t i = 0; i < b.rows; ++i) {
    rows[i] = _mm512_maskz_loadu_epi32(masks.keys, ds + (b.row + i) * wide + b.key);
    add(of_products + (b.row + i) * terms.wide + first + b.keys - 16 + i, masks.last_keys, reversed(rows[i]));
  }
  transpose_words(rows);
  for (int64_t t = 0; t < b.keys; ++t)
    add(of_key_products + (b.key + t) * terms.wide + first + b.keys - 1 - t, masks.rows, rows[t]);
}
#else
inline void add_near(const Terms&, const ScoreBlock&, int64_t, int64_t, float*) {}
inline void add_near_gradients(const Terms&, const ScoreBlock&, int64_t, int64_t, const float*, float*,
                               float*) {}
#endif

inline void add_relative(const Tile& tile, const Terms& terms, const float* q, int64_t i0, int64_t rows,
                         const Columns& columns, float* s) {
  const int64_t deep = tile.padded_dim, wide = tile.padded_length;
  if (terms.key)
    gemm(rows, terms.wide, tile.dim, q, deep, 1, terms.key_t, terms.wide, terms.query_products, terms.wide,
         false);
  const auto near = [&](const ScoreBlock& block, int64_t first) { add_near(terms, block, first, wide, s); };
  for_score_blocks(tile, terms, i0, rows, columns, near, [&](int64_t r, Keys keys) {
    const int64_t place = tile.first_place + i0 + r;
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      const int64_t b = terms.bucket(place - j);
      float sum = terms.bias ? terms.bias[b] : 0.0f;
      if (terms.key) sum += terms.query_products[r * terms.wide + b];
      if (terms.query) sum += terms.key_products[j * terms.wide + b];
      s[r * wide + j] += sum;
    }
  });
}

// Scores scale q kᵀ of rows [i0, i0 + rows) -> the whole scores. q: those rows in float, times the scale.
inline void finish_scores(const Tile& tile, const Terms& terms, const float* q, int64_t i0, int64_t rows,
                          const Columns& columns, float* s) {
  if (terms.bucket_of) add_relative(tile, terms, q, i0, rows, columns, s);
  if (terms.cap <= 0) return;
  const int64_t wide = tile.padded_length;
  const float inverse = 1.0f / terms.cap;
  for (int64_t r = 0; r < rows; ++r) {
    fill_hidden(s + r * wide, visible(tile, i0 + r), columns, 0.0f);
    for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes) {
      const VecF t = tanh(load(s + r * wide + j) * inverse);
      store(s + r * wide + j, t * terms.cap);
      if (terms.slope) store(terms.slope + r * wide + j, 1.0f - t * t);
    }
  }
}

// ds: the gradients of the scores -> of what stands inside the cap.
inline void through_cap(const Terms& terms, int64_t rows, int64_t wide, const Columns& columns, float* ds) {
  if (terms.slope == nullptr) return;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = r * wide + columns.begin; i < r * wide + columns.padded_end; i += kLanes)
      store(ds + i, load(ds + i) * load(terms.slope + i));
  }
}

// Sums of the gradients of relative terms over the segments, of the heads that one thread has.
struct TermSums {
  float *key, *query, *bias;  // [buckets, deep] a head, without the scale; [buckets] a head

  TermSums of_head(int64_t head, int64_t buckets, int64_t deep) const {
    return {key + head * buckets * deep, query + head * buckets * deep, bias + head * buckets};
  }
};

struct TermGradients {
  float* of_products;      // [kRowBlock, wide]
  float* of_key_products;  // [length, wide]
  TermSums sums;
};

inline TermGradients make_term_gradients(const Tile& tile, const Terms& terms, const TermSums& sums) {
  TermGradients g{thread_scratch(kQueryGradientSlot, kRowBlock * terms.wide),
                  thread_scratch(kKeyGradientSlot, tile.length * terms.wide), sums};
  std::memset(g.of_key_products, 0, sizeof(float) * static_cast<size_t>(tile.length * terms.wide));
  return g;
}

// The shares of rows [i0, i0 + rows). d_q [rows, deep], without the scale, is added to.
inline void add_term_gradients(const Tile& tile, const Terms& terms, const TermGradients& g, const float* ds,
                               const float* q, int64_t i0, int64_t rows, const Columns& columns, float* d_q) {
  const int64_t deep = tile.padded_dim;
  std::memset(g.of_products, 0, sizeof(float) * static_cast<size_t>(rows * terms.wide));
  const auto near = [&](const ScoreBlock& block, int64_t first) {
    add_near_gradients(terms, block, first, tile.padded_length, ds, g.of_products, g.of_key_products);
  };
  for_score_blocks(tile, terms, i0, rows, columns, near, [&](int64_t r, Keys keys) {
    const int64_t place = tile.first_place + i0 + r;
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      const int64_t b = terms.bucket(place - j);
      g.of_products[r * terms.wide + b] += ds[r * tile.padded_length + j];
      g.of_key_products[j * terms.wide + b] += ds[r * tile.padded_length + j];
    }
  });
  if (terms.key) {
    gemm(rows, deep, terms.count, g.of_products, terms.wide, 1, terms.key, deep, d_q, deep, true);
    gemm(terms.count, deep, rows, g.of_products, 1, terms.wide, q, deep, g.sums.key + terms.first * deep,
         deep, true);
  }
  for (int64_t r = 0; terms.bias && r < rows; ++r)
    for (int64_t b = 0; b < terms.count; ++b)
      g.sums.bias[terms.first + b] += g.of_products[r * terms.wide + b];
}

// What the whole head of a segment gives: d_k [length, deep] is added to.
inline void finish_term_gradients(const Tile& tile, const Terms& terms, const TermGradients& g,
                                  const float* k, float* d_k) {
  if (terms.query == nullptr) return;
  const int64_t deep = tile.padded_dim;
  gemm(tile.length, deep, terms.count, g.of_key_products, terms.wide, 1, terms.query, deep, d_k, deep, true);
  gemm(terms.count, deep, tile.length, g.of_key_products, 1, terms.wide, k, deep,
       g.sums.query + terms.first * deep, deep, true);
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
