#pragma once

// The products of relative terms in float. Queries and the table of queries hold the scale of scores.
#include "kernels/cpu/attention_terms.h"
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

struct FloatTerms : Terms {
  float *key = nullptr, *key_t = nullptr;  // [count, deep], [dim, wide]
  float *query = nullptr, *query_t = nullptr;
};

template <typename T>
void gather_tables(const Attention<T>& op, const Tile& tile, FloatTerms& terms) {
  const int64_t dim = tile.dim, deep = tile.padded_dim, stride = op.heads * dim;
  const int64_t at = terms.first * stride + tile.head * dim;
  const auto take = [&](const T* table, float scale, int slot, int turned_slot, float*& rows,
                        float*& turned) {
    rows = thread_scratch(slot, terms.count * deep);
    turned = thread_scratch(turned_slot, dim * terms.wide);
    gather(table + at, stride, terms.count, dim, deep, scale, rows);
    transpose(rows, terms.count, dim, deep, turned, terms.wide);
  };
  if (terms.query_products)
    take(op.relative->key, 1.0f, kRelativeKeySlot, kRelativeKeyTSlot, terms.key, terms.key_t);
  if (terms.key_products)
    take(op.relative->query, static_cast<float>(op.scale), kRelativeQuerySlot, kRelativeQueryTSlot,
         terms.query, terms.query_t);
}

// k: the keys in float, [length, padded_dim].
template <typename T>
void prepare_terms(const Attention<T>& op, const Tile& tile, const float* k, bool with_gradient,
                   FloatTerms& terms) {
  if (begin_terms(op, tile, with_gradient, 1.0f, terms)) gather_tables(op, tile, terms);
  if (terms.key_products)
    gemm(tile.length, terms.wide, tile.dim, k, tile.padded_dim, 1, terms.query_t, terms.wide,
         terms.key_products, terms.wide, false);
}

// Scores scale q kᵀ of rows [i0, i0 + rows) -> the whole scores. q: those rows in float, times the scale.
inline void finish_scores(const Tile& tile, const FloatTerms& terms, const float* q, int64_t i0, int64_t rows,
                          const Columns& columns, float* s) {
  if (terms.query_products)
    gemm(rows, terms.wide, tile.dim, q, tile.padded_dim, 1, terms.key_t, terms.wide, terms.query_products,
         terms.wide, false);
  if (terms.bucket_of) add_terms(tile, terms, i0, rows, columns, s);
  if (terms.cap > 0) cap_scores(tile, terms, i0, rows, columns, 1.0f, s);
}

// ds: the gradients of the scores -> of what stands inside the cap.
inline void through_cap(const Terms& terms, int64_t rows, int64_t wide, const Columns& columns, float* ds) {
  if (terms.slope == nullptr) return;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = r * wide + columns.begin; i < r * wide + columns.padded_end; i += kLanes)
      store(ds + i, load(ds + i) * load(terms.slope + i));
  }
}

// The shares of rows [i0, i0 + rows). d_q [rows, deep], without the scale, is added to.
inline void add_term_gradients(const Tile& tile, const FloatTerms& terms, const TermGradients& g,
                               const float* ds, const float* q, int64_t i0, int64_t rows,
                               const Columns& columns, float* d_q) {
  const int64_t deep = tile.padded_dim;
  collect_term_gradients(tile, terms, g, ds, i0, rows, columns);
  if (terms.query_products == nullptr) return;
  gemm(rows, deep, terms.count, g.of_products, terms.wide, 1, terms.key, deep, d_q, deep, true);
  gemm(terms.count, deep, rows, g.of_products, 1, terms.wide, q, deep, g.sums.key + terms.first * deep, deep,
       true);
}

// What the whole head of a segment gives: d_k [length, deep] is added to.
inline void finish_term_gradients(const Tile& tile, const FloatTerms& terms, const TermGradients& g,
                                  const float* k, float* d_k) {
  if (terms.key_products == nullptr) return;
  const int64_t deep = tile.padded_dim;
  gemm(tile.length, deep, terms.count, g.of_key_products, terms.wide, 1, terms.query, deep, d_k, deep, true);
  gemm(terms.count, deep, tile.length, g.of_key_products, 1, terms.wide, k, deep,
       g.sums.query + terms.first * deep, deep, true);
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
