#pragma once

// What scores may be beside scale q kᵀ: terms by distance and a soft cap (Attention in kernels.h), in float.

#include "kernels/cpu/activation_functions.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/small_gemm.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kSlopeSlot = 24, kRelativeKeySlot = 25, kRelativeKeyTSlot = 26, kRelativeQuerySlot = 27,
              kRelativeQueryTSlot = 28, kQueryProductSlot = 29, kKeyProductSlot = 30, kQueryGradientSlot = 31,
              kKeyGradientSlot = 32, kRelativeBiasSlot = 33, kRelativeSumSlot = 34;

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

// The terms of one head of one segment. Buckets [first, first + count) are those of its distances, in rows
// padded to `wide`. Products hold the scale of scores.
struct Terms {
  const int32_t* bucket_of = nullptr;  // of the distance 0; null: no relative terms
  int64_t reach = 0;
  int64_t first = 0, count = 0, wide = 0;
  float *key = nullptr, *key_t = nullptr;      // [count, deep], [dim, wide]; null: no such term
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

inline void add_relative(const Tile& tile, const Terms& terms, const float* q, int64_t i0, int64_t rows,
                         float* s) {
  const int64_t deep = tile.padded_dim, wide = tile.padded_length;
  if (terms.key)
    gemm(rows, terms.wide, tile.dim, q, deep, 1, terms.key_t, terms.wide, terms.query_products, terms.wide,
         false);
  for (int64_t r = 0; r < rows; ++r) {
    const Keys seen = visible(tile, i0 + r);
    const int64_t place = tile.first_place + i0 + r;
    for (int64_t j = seen.begin; j < seen.end; ++j) {
      const int64_t b = terms.bucket(place - j);
      float sum = terms.bias ? terms.bias[b] : 0.0f;
      if (terms.key) sum += terms.query_products[r * terms.wide + b];
      if (terms.query) sum += terms.key_products[j * terms.wide + b];
      s[r * wide + j] += sum;
    }
  }
}

// Scores scale q kᵀ of rows [i0, i0 + rows) -> the whole scores. q: those rows in float, times the scale.
inline void finish_scores(const Tile& tile, const Terms& terms, const float* q, int64_t i0, int64_t rows,
                          const Columns& columns, float* s) {
  if (terms.bucket_of) add_relative(tile, terms, q, i0, rows, s);
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
                               const float* q, int64_t i0, int64_t rows, float* d_q) {
  const int64_t wide = tile.padded_length, deep = tile.padded_dim;
  std::memset(g.of_products, 0, sizeof(float) * static_cast<size_t>(rows * terms.wide));
  for (int64_t r = 0; r < rows; ++r) {
    const Keys seen = visible(tile, i0 + r);
    const int64_t place = tile.first_place + i0 + r;
    for (int64_t j = seen.begin; j < seen.end; ++j) {
      const int64_t b = terms.bucket(place - j);
      g.of_products[r * terms.wide + b] += ds[r * wide + j];
      g.of_key_products[j * terms.wide + b] += ds[r * wide + j];
    }
  }
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
