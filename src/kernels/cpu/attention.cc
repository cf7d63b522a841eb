#include <type_traits>

#include "kernels/cpu/attention_few.h"
#include "kernels/cpu/attention_float_terms.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

int64_t rows_from(const Tile& tile, int64_t i0) {
  return tile.queries - i0 < kRowBlock ? tile.queries - i0 : kRowBlock;
}

template <typename T>
void forward_tile(const Attention<T>& op, const Tile& tile, FloatTerms& terms) {
  const int64_t length = tile.length, dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const int64_t kv_head = tile.head / (op.heads / op.kv_heads);
  float* k = thread_scratch(kKSlot, length * deep);
  float* kt = thread_scratch(kKtSlot, dim * wide);
  float* v = thread_scratch(kVSlot, length * deep);
  float* q = thread_scratch(kQSlot, kRowBlock * deep);
  float* p = thread_scratch(kPSlot, kRowBlock * wide);
  float* out = thread_scratch(kOutSlot, kRowBlock * deep);
  gather(op.k + tile.first_key * op.k_stride + kv_head * dim, op.k_stride, length, dim, deep, 1.0f, k);
  transpose(k, length, dim, deep, kt, wide);
  gather(op.v + tile.first_key * op.v_stride + kv_head * dim, op.v_stride, length, dim, deep, 1.0f, v);
  prepare_terms(op, tile, k, false, terms);
  for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock) {
    const int64_t rows = rows_from(tile, i0), row = tile.first_query + i0;
    const Columns columns = columns_of(tile, i0, rows);
    if (columns.none()) {
      attend_to_nothing(op, tile, i0, rows);
      continue;
    }
    gather(op.q + row * op.q_stride + tile.head * dim, op.q_stride, rows, dim, deep,
           static_cast<float>(op.scale), q);
    gemm(rows, columns.count(), dim, q, deep, 1, kt + columns.begin, wide, p + columns.begin, wide, false);
    finish_scores(tile, terms, q, i0, rows, columns, p);
    softmax_rows(tile, i0, rows, columns, p, op.lse ? op.lse + row * op.heads + tile.head : nullptr,
                 op.heads);
    if (op.mask.active())
      apply_mask(p, block_mask(op.mask, tile, i0, rows, columns), static_cast<float>(op.mask.scale()), rows,
                 columns, wide);
    gemm(rows, deep, columns.keys(), p + columns.begin, wide, 1, v + columns.begin * deep, deep, out, deep,
         false);
    scatter(out, deep, rows, dim, 1.0f, op.o + row * op.o_stride + tile.head * dim, op.o_stride);
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
void backward_block(const AttentionBackward<T>& op, const Tile& tile, const BackwardScratch& t,
                    const FloatTerms& terms, const TermGradients& gradients, int64_t i0) {
  const Attention<T>& f = op.forward;
  const int64_t dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const float scale = static_cast<float>(f.scale);
  const int64_t rows = rows_from(tile, i0);
  const int64_t row = tile.first_query + i0, column = tile.head * dim;
  T* const dq = op.dq + row * f.q_stride + column;
  const Columns columns = columns_of(tile, i0, rows);
  const int64_t first = columns.begin, keys = columns.keys();
  if (columns.none()) {
    for (int64_t r = 0; r < rows; ++r)
      std::memset(dq + r * f.q_stride, 0, sizeof(T) * static_cast<size_t>(dim));
    return;
  }
  gather(f.q + row * f.q_stride + column, f.q_stride, rows, dim, deep, scale, t.q);
  gather(op.d_o + row * f.o_stride + column, f.o_stride, rows, dim, deep, 1.0f, t.d_o);
  gemm(rows, columns.count(), dim, t.q, deep, 1, t.kt + first, wide, t.p + first, wide, false);
  finish_scores(tile, terms, t.q, i0, rows, columns, t.p);
  probability_rows(tile, i0, rows, columns, t.p, f.lse + row * f.heads + tile.head, f.heads);
  gemm(rows, columns.count(), dim, t.d_o, deep, 1, t.vt + first, wide, t.ds + first, wide, false);
  score_gradients(tile, rows, columns, block_mask(f.mask, tile, i0, rows, columns),
                  static_cast<float>(f.mask.scale()), t.p, t.ds);
  through_cap(terms, rows, wide, columns, t.ds);
  gemm(keys, deep, rows, t.p + first, 1, wide, t.d_o, deep, t.dv + first * deep, deep, true);
  gemm(keys, deep, rows, t.ds + first, 1, wide, t.q, deep, t.dk + first * deep, deep, true);
  gemm(rows, deep, keys, t.ds + first, wide, 1, t.k + first * deep, deep, t.out, deep, false);
  if (terms.bucket_of) add_term_gradients(tile, terms, gradients, t.ds, t.q, i0, rows, columns, t.out);
  scatter(t.out, deep, rows, dim, scale, dq, f.q_stride);
}

// All query heads that read one key head, so that dk and dv have one writer. `sums` are those of the group's
// heads.
template <typename T>
void backward_group(const AttentionBackward<T>& op, int64_t segment, int64_t kv_head, const TermSums& sums,
                    FloatTerms& terms) {
  const Attention<T>& f = op.forward;
  const int64_t group = f.heads / f.kv_heads;
  Tile tile = make_tile(f, segment, kv_head * group);
  const int64_t deep = tile.padded_dim, dim = tile.dim;
  const BackwardScratch t = backward_scratch(tile);
  const int64_t k_offset = tile.first_key * f.k_stride + kv_head * dim;
  const int64_t v_offset = tile.first_key * f.v_stride + kv_head * dim;
  gather(f.v + v_offset, f.v_stride, tile.length, dim, deep, 1.0f, t.k);
  transpose(t.k, tile.length, dim, deep, t.vt, tile.padded_length);
  gather(f.k + k_offset, f.k_stride, tile.length, dim, deep, 1.0f, t.k);
  transpose(t.k, tile.length, dim, deep, t.kt, tile.padded_length);
  std::memset(t.dk, 0, sizeof(float) * static_cast<size_t>(tile.length * deep));
  std::memset(t.dv, 0, sizeof(float) * static_cast<size_t>(tile.length * deep));
  for (int64_t h = 0; h < group && tile.queries > 0; ++h) {
    tile.head = kv_head * group + h;
    prepare_terms(f, tile, t.k, true, terms);
    TermGradients gradients{};
    if (terms.bucket_of) gradients = make_term_gradients(tile, terms, sums.of_head(h));
    for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock)
      backward_block(op, tile, t, terms, gradients, i0);
    if (terms.bucket_of) finish_term_gradients(tile, terms, gradients, t.k, t.dk);
  }
  scatter(t.dk, deep, tile.length, dim, 1.0f, op.dk + k_offset, f.k_stride);
  scatter(t.dv, deep, tile.length, dim, 1.0f, op.dv + v_offset, f.v_stride);
}

}  // namespace

template <typename T>
void attention(const Attention<T>& op) {
  if (!attention_of_few(op)) return;
  if constexpr (std::is_same_v<T, Bfloat16>) {
    if (attention_in_pairs(op)) return;
  }
  for_heads<FloatTerms>(op, [&](const Tile& tile, FloatTerms& terms) { forward_tile(op, tile, terms); });
}

template <typename T>
void attention_backward(const AttentionBackward<T>& op) {
  if constexpr (std::is_same_v<T, Bfloat16>) {
    if (attention_in_pairs_backward(op)) return;
  }
  // Sums over q hold the scale, those over k do not.
  for_key_heads<FloatTerms>(op, static_cast<float>(op.forward.scale),
                            [&](int64_t segment, int64_t kv_head, const TermSums& sums, FloatTerms& terms) {
                              backward_group(op, segment, kv_head, sums, terms);
                            });
}

MSPLORA_DEFINED(attention, Attention)
MSPLORA_DEFINED(attention_backward, AttentionBackward)

}  // namespace msplora::kernels::MSPLORA_ISA
