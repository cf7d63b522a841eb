// Attention on tiles (AMX). The gradients of keys and values are sums over queries, whose pairs lie down the
// columns of P and dS: they are formed as their transposes, dOᵀ P and Qᵀ dS, of kGradientRows queries at a
// time, as every product loads and stores the sums of all keys.
#include "kernels/amx/attention_term_gradients.h"
#include "kernels/amx/vector_kernels.h"
#include "kernels/cpu/attention_pairs.h"

namespace msplora::kernels::avx512bf16 {
template <typename T>
bool attention_of_few(const Attention<T>& op);
}  // namespace msplora::kernels::avx512bf16

namespace msplora::kernels::amx {
namespace {

constexpr int kTurnedQSlot = 42, kTurnedDoSlot = 43, kInterleavedSlot = 44;

// ---- Backward

// Of kGradientRows queries of a head, and of all its keys.
struct BackwardScratch {
  float *s, *dp, *out;
  PairArray p, ds, ds_rows;
  PairArray q, d_o;                // rows
  PairArray turned_q, turned_d_o;  // [deep, pairs of rows]
  PairArray interleaved, kt, vt, k;
  float *turned_dk, *turned_dv;  // [deep, wide]
  // Of terms by key: [deep, pairs of keys], and what they add to dk, [wide, deep].
  PairArray turned_k;
  float* dk;
};

template <int kParts>
BackwardScratch backward_scratch(const Tile& tile, bool with_terms) {
  const int64_t wide = tile.padded_length, deep = tile.padded_dim, depth = depth_of(tile.dim);
  constexpr int64_t kDown = kGradientRows / 2;
  const int64_t of_rows = row_stride(tile.dim), key_pairs = with_terms ? round_up(wide, kInner) / 2 : 0;
  return {thread_scratch(kPSlot, kRowBlock * wide),
          thread_scratch(kDsSlot, kRowBlock * wide),
          thread_scratch(kOutSlot, kRowBlock * deep),
          pair_array<kParts>(kWidePairSlot, kDown, wide),
          pair_array<kParts>(kGradientPairSlot, kDown, wide),
          pair_array<kParts>(kGradientRowSlot, kRowBlock, row_stride(wide)),
          pair_array<kParts>(kQSlot, kGradientRows, of_rows),
          pair_array<kParts>(kDoSlot, kGradientRows, of_rows),
          pair_array<kParts>(kTurnedQSlot, deep, kDown),
          pair_array<kParts>(kTurnedDoSlot, deep, kDown),
          pair_array<kParts>(kInterleavedSlot, key_pairs > kDown ? key_pairs : kDown, deep),
          pair_array<kParts>(kKtSlot, depth, wide),
          pair_array<kParts>(kVtSlot, depth, wide),
          pair_array<kParts>(kKSlot, wide / 2, deep),
          thread_scratch(kDkSlot, wide * deep),
          thread_scratch(kDvSlot, wide * deep),
          pair_array<kParts>(kTurnedKSlot, deep, key_pairs),
          thread_scratch(kTermDkSlot, with_terms ? wide * deep : 0)};
}

// Pairs [first, last) of P and dS, zero in the columns [begin, end).
template <int kParts>
void clear_pairs(const BackwardScratch& t, int64_t first, int64_t last, int64_t begin, int64_t end) {
  if (begin >= end) return;
  const size_t bytes = sizeof(uint32_t) * static_cast<size_t>(end - begin);
  for (const PairArray& array : {t.p, t.ds}) {
    for (int part = 0; part < kParts; ++part)
      for (int64_t p = first; p < last; ++p)
        std::memset(array.from(p, begin).at + part * array.part, 0, bytes);
  }
}

// Queries [i0, i0 + rows), the first of which is at row `at` of the scratch: dQ, and P and dS as pairs in the
// columns `all`.
template <int kParts, typename T>
void backward_rows(const AttentionBackward<T>& op, const Tile& tile, const BackwardScratch& t,
                   const PairTerms& terms, const TermGradientProducts<kParts>* gradients,
                   const HeadsAhead<T>& ahead, int64_t i0, int64_t at, int64_t rows, const Columns& all) {
  const Attention<T>& f = op.forward;
  const int64_t wide = tile.padded_length, deep = tile.padded_dim, dim = tile.dim, depth = depth_of(dim);
  const int64_t first_pair = at / 2, pairs = (rows + 1) / 2, last_pair = first_pair + round_up(pairs, kPairs);
  T* const dq = op.dq + (tile.first_query + i0) * f.q_stride + tile.head * dim;
  const Columns columns = columns_of(tile, i0, rows);
  if (columns.none()) {
    for (int64_t r = 0; r < rows; ++r)
      std::memset(dq + r * f.q_stride, 0, sizeof(T) * static_cast<size_t>(dim));
    if (gradients) gradients->skip_rows(rows, first_pair);
    return clear_pairs<kParts>(t, first_pair, last_pair, all.begin, all.padded_end);
  }
  clear_pairs<kParts>(t, first_pair, last_pair, all.begin, columns.begin);
  clear_pairs<kParts>(t, first_pair, last_pair, columns.padded_end, all.padded_end);
  clear_pairs<kParts>(t, first_pair + pairs, last_pair, columns.begin, columns.padded_end);
  const int64_t begin = columns.begin, count = columns.count();
  multiply_pairs<kParts>(rows, count, depth, t.q.from(at, 0), t.kt.from(0, begin), t.s + begin, wide, false);
  const float scale = complete_scores<TileProducts<kParts>>(tile, terms, t.q.from(at, 0), i0, rows, columns,
                                                            static_cast<float>(f.scale), t.s);
  multiply_pairs<kParts>(rows, count, depth, t.d_o.from(at, 0), t.vt.from(0, begin), t.dp + begin, wide,
                         false);
  const BlockScratch block{t.s, t.dp, t.p.from(first_pair, 0), t.ds.from(first_pair, 0), t.ds_rows};
  block_gradients<kParts>(f, tile, block, i0, rows, columns, ScoreForm(scale, f.scale, terms), ahead);
  multiply_pairs<kParts>(rows, deep, count / 2, t.ds_rows.from(0, begin / 2), t.k.from(begin / 2, 0), t.out,
                         deep, false);
  if (gradients) gradients->add_rows(t.dp, i0, rows, columns, first_pair, t.out);
  scatter(t.out, deep, rows, dim, 1.0f, dq, f.q_stride);
}

void clear(float* sums, const Tile& tile) {
  std::memset(sums, 0, sizeof(float) * static_cast<size_t>(tile.padded_length * tile.padded_dim));
}

// Queries [i0, i0 + rows) of a head, at most kGradientRows; `begins`: the first ones that read its keys.
template <int kParts, typename T>
void backward_block(const AttentionBackward<T>& op, const Tile& tile, const BackwardScratch& t,
                    const PairTerms& terms, const TermGradientProducts<kParts>* gradients,
                    const HeadsAhead<T>& ahead, int64_t i0, int64_t rows, bool begins) {
  const Attention<T>& f = op.forward;
  const int64_t row = tile.first_query + i0, column = tile.head * tile.dim, wide = tile.padded_length;
  const T *q = f.q + row * f.q_stride + column, *d_o = op.d_o + row * f.o_stride + column;
  copy_rows<kParts>(q, f.q_stride, rows, tile.dim, t.q);
  copy_rows<kParts>(d_o, f.o_stride, rows, tile.dim, t.d_o);
  const Columns all = columns_of(tile, i0, rows);
  for (int64_t at = 0; at < rows; at += kRowBlock)
    backward_rows<kParts>(op, tile, t, terms, gradients, ahead, i0 + at, at,
                          rows - at < kRowBlock ? rows - at : kRowBlock, all);
  const bool begins_all = begins && all.begin == 0 && all.padded_end == wide;
  if (begins && !begins_all) clear(t.turned_dk, tile), clear(t.turned_dv, tile);
  if (all.none()) return;
  turn_rows<kParts>(q, f.q_stride, rows, tile, t.interleaved, t.turned_q);
  turn_rows<kParts>(d_o, f.o_stride, rows, tile, t.interleaved, t.turned_d_o);
  const int64_t pairs = round_up(rows, kInner) / 2;
  const auto add = [&](Pairs turned, PairArray right, float* sum) {
    multiply_pairs<kParts>(tile.padded_dim, all.count(), pairs, turned, right.from(0, all.begin),
                           sum + all.begin, wide, !begins_all);
  };
  add(t.turned_d_o, t.p, t.turned_dv);
  add(t.turned_q, t.ds, t.turned_dk);
  if (gradients) gradients->add_to_key_table(t.turned_q, pairs);
}

// The queries of one head; `begins`: the first one that reads its keys.
template <int kParts, typename T>
void backward_head(const AttentionBackward<T>& op, const Tile& tile, const BackwardScratch& t,
                   const TermSums& sums, PairTerms& terms, bool begins) {
  const HeadsAhead<T> ahead(op, tile);
  const auto run = [&](const TermGradientProducts<kParts>* gradients) {
    for (int64_t i0 = 0; i0 < tile.queries; i0 += kGradientRows) {
      const int64_t rows = tile.queries - i0 < kGradientRows ? tile.queries - i0 : kGradientRows;
      backward_block<kParts>(op, tile, t, terms, gradients, ahead, i0, rows, begins && i0 == 0);
    }
  };
  prepare_terms<TileProducts<kParts>>(op.forward, tile, true, terms);
  if (terms.bucket_of == nullptr) return run(nullptr);
  const TermGradients sums_of_rows = make_term_gradients(tile, terms, sums);
  const TermGradientProducts<kParts> gradients(tile, terms, sums_of_rows, op.forward.scale);
  run(&gradients);
  gradients.finish(t.turned_k, t.dk);
}

// All query heads that read one key head, so that dk and dv have one writer.
template <int kParts, typename T>
void backward_group(const AttentionBackward<T>& op, int64_t segment, int64_t kv_head, const TermSums& sums,
                    PairTerms& terms) {
  const Attention<T>& f = op.forward;
  const int64_t group = f.heads / f.kv_heads;
  const bool with_terms = f.relative && f.relative->query;
  Tile tile = make_tile(f, segment, kv_head * group);
  const BackwardScratch t = backward_scratch<kParts>(tile, with_terms);
  const int64_t dim = tile.dim, wide = tile.padded_length, depth = depth_of(dim);
  const int64_t k_offset = tile.first_key * f.k_stride + kv_head * dim;
  const int64_t v_offset = tile.first_key * f.v_stride + kv_head * dim;
  transpose_pairs<kParts>(f.k + k_offset, f.k_stride, tile.length, dim, depth, t.kt);
  transpose_pairs<kParts>(f.v + v_offset, f.v_stride, tile.length, dim, depth, t.vt);
  interleave_rows<kParts>(f.k + k_offset, f.k_stride, tile.length, wide, dim, t.k);
  if (with_terms) turn_rows<kParts>(f.k + k_offset, f.k_stride, tile.length, tile, t.interleaved, t.turned_k);
  if (tile.queries == 0) clear(t.turned_dk, tile), clear(t.turned_dv, tile);
  if (with_terms) clear(t.dk, tile);
  for (int64_t h = 0; h < group && tile.queries > 0; ++h) {
    tile.head = kv_head * group + h;
    backward_head<kParts>(op, tile, t, f.relative ? sums.of_head(h) : TermSums{}, terms, h == 0);
  }
  scatter_turned(t.turned_dk, wide, tile.length, dim, 1.0f, with_terms ? t.dk : nullptr, op.dk + k_offset,
                 f.k_stride);
  scatter_turned(t.turned_dv, wide, tile.length, dim, 1.0f, nullptr, op.dv + v_offset, f.v_stride);
}

// ---- Heads

struct OfThread {
  Tiles tiles{Shapes::kHalfSteps};
  PairTerms terms;
};

template <int kParts, typename T>
void forward(const Attention<T>& op) {
  if (!is_suitable(op)) return avx512bf16::attention(op);
  if (!avx512bf16::attention_of_few(op)) return;
  for_heads<OfThread>(op, [&](const Tile& tile, OfThread& of_thread) {
    forward_head<TileProducts<kParts>>(op, tile, of_thread.terms);
  });
}

template <int kParts, typename T>
void backward(const AttentionBackward<T>& op) {
  const Attention<T>& f = op.forward;
  if (!is_suitable(f)) return avx512bf16::attention_backward(op);
  for_key_heads<OfThread, TurnedSums>(
      op, 1.0f, [&](int64_t segment, int64_t kv_head, const TermSums& sums, OfThread& of_thread) {
        backward_group<kParts>(op, segment, kv_head, sums, of_thread.terms);
      });
}

}  // namespace

template <>
void attention(const Attention<Bfloat16>& op) {
  forward<1>(op);
}
template <>
void attention_backward(const AttentionBackward<Bfloat16>& op) {
  backward<1>(op);
}

template <>
void attention(const Attention<float>& op) {
  in_precision(
      op.precision, [&] { avx512bf16::attention(op); }, [&]<int kParts> { forward<kParts>(op); });
}
template <>
void attention_backward(const AttentionBackward<float>& op) {
  in_precision(
      op.forward.precision, [&] { avx512bf16::attention_backward(op); },
      [&]<int kParts> { backward<kParts>(op); });
}

}  // namespace msplora::kernels::amx
