// Attention on tiles (AMX): products of 32 x 32 sums, or 16 where there are no more. Summed dimensions come
// in steps of 16 pairs and half a one at the end, so that keys and heads are padded to 16 alone. The
// gradients of keys and values are sums over queries, whose pairs lie down the columns of P and dS: they are
// formed as their transposes, dOᵀ P and Qᵀ dS, of kGradientRows queries at a time, as every product loads and
// stores the sums of all keys.
#include "kernels/amx/tiles.h"
#include "kernels/amx/vector_kernels.h"
#include "kernels/cpu/attention_pairs.h"

namespace msplora::kernels::avx512bf16 {
template <typename T>
bool attention_of_few(const Attention<T>& op);
}  // namespace msplora::kernels::avx512bf16

namespace msplora::kernels::amx {
namespace {

constexpr int64_t kGradientRows = 4 * kRowBlock;  // queries

// Those of relative terms, whose gradients are not formed here.
constexpr int kTurnedQSlot = 25, kTurnedDoSlot = 26, kInterleavedSlot = 27;

// ---- Products

// Sums 0 to 3 of up to 2 x 2 tiles. Of half a step the operands are tiles 6 and 7.
template <int kDown, int kAcross, int kA, int kB>
MSPLORA_INLINE void add_step(const uint32_t* a, int64_t a_bytes, int64_t next_a, const uint32_t* b,
                             int64_t b_bytes) {
  load_tile<kA>(a, a_bytes);
  load_tile<kB>(b, b_bytes);
  multiply_tiles<0, kA, kB>();
  if constexpr (kAcross > 1) {
    load_tile<kB>(b + kSums, b_bytes);
    multiply_tiles<1, kA, kB>();
  }
  if constexpr (kDown > 1) {
    load_tile<kA>(a + next_a, a_bytes);
    multiply_tiles<kAcross == 1 ? 2 : 3, kA, kB>();
    if constexpr (kAcross > 1) {
      load_tile<kB>(b, b_bytes);
      multiply_tiles<2, kA, kB>();
    }
  }
}

template <int kParts, int kDown, int kAcross>
void form_block(int64_t k, Pairs a, Pairs b, float* c, int64_t ldc, bool add) {
  using Meet = Meeting<kParts>;
  const int64_t bytes = ldc * static_cast<int64_t>(sizeof(float));
  float* const below = c + kRows * ldc;
  if (add) {
    load_tile<0>(c, bytes);
    if constexpr (kAcross > 1) load_tile<1>(c + kSums, bytes);
    if constexpr (kDown > 1) load_tile<2>(below, bytes);
    if constexpr (kDown > 1 && kAcross > 1) load_tile<3>(below + kSums, bytes);
  } else {
    zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  }
  const int64_t a_bytes = a.stride * 4, b_bytes = b.stride * 4, next_a = kRows * a.stride;
  for (int64_t p = 0; p < k; p += kPairs) {
    for (int i = 0; i < Meet::kCount; ++i) {
      const uint32_t* const left = a.at + Meet::kLeft[i] * a.part + p;
      const uint32_t* const right = b.at + Meet::kRight[i] * b.part + p * b.stride;
      if (p + kPairs <= k) {
        add_step<kDown, kAcross, 4, 5>(left, a_bytes, next_a, right, b_bytes);
      } else {
        add_step<kDown, kAcross, 6, 7>(left, a_bytes, next_a, right, b_bytes);
      }
    }
  }
  store_tile<0>(c, bytes);
  if constexpr (kAcross > 1) store_tile<1>(c + kSums, bytes);
  if constexpr (kDown > 1) store_tile<2>(below, bytes);
  if constexpr (kDown > 1 && kAcross > 1) store_tile<3>(below + kSums, bytes);
}

// c[m, n] (+)= a b over k pairs. m and n are taken as multiples of 16, k is a multiple of 8.
template <int kParts>
void multiply_pairs(int64_t m, int64_t n, int64_t k, Pairs a, Pairs b, float* c, int64_t ldc, bool add) {
  for (int64_t i = 0; i < m; i += 2 * kRows) {
    const Pairs rows = a.from(i, 0);
    for (int64_t j = 0; j < n; j += 2 * kSums) {
      const Pairs columns = b.from(0, j);
      float* const to = c + i * ldc + j;
      const bool is_tall = m - i > kRows, is_broad = n - j > kSums;
      if (is_tall && is_broad) {
        form_block<kParts, 2, 2>(k, rows, columns, to, ldc, add);
      } else if (is_tall) {
        form_block<kParts, 2, 1>(k, rows, columns, to, ldc, add);
      } else if (is_broad) {
        form_block<kParts, 1, 2>(k, rows, columns, to, ldc, add);
      } else {
        form_block<kParts, 1, 1>(k, rows, columns, to, ldc, add);
      }
    }
  }
}

// Pairs of a row of q and k, a multiple of half a step.
int64_t depth_of(int64_t dim) {
  return round_up(dim, kPairs) / 2;
}

// Rows of `dim` numbers, as pairs with zeros behind them, at the beginning of lines; whole blocks of 16 rows.
template <int kParts, typename T>
void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t dim, PairArray to) {
  for (int64_t r = 0; r < round_up(rows, kRows); ++r) {
    for (int64_t d = 0; d < to.stride * 2; d += kNumbers) {
      __m512i words[kParts];
      load_parts(from + r * stride + d, first_numbers(r < rows ? dim - d : 0), words);
      for (int part = 0; part < kParts; ++part)
        _mm512_storeu_si512(to.from(r, d / 2).at + part * to.part, words[part]);
    }
  }
}

// Pairs from one such row to the next: whole lines.
int64_t row_stride(int64_t dim) {
  return round_up(dim, kInner) / 2;
}

template <int kPartsOfOne>
struct TileProducts {
  static constexpr int kParts = kPartsOfOne;
  static int64_t depth(int64_t dim) { return depth_of(dim); }
  static int64_t pair_stride(int64_t wide) { return row_stride(wide); }
  template <typename T>
  static Pairs left(const T* x, int64_t stride, int64_t rows, int64_t dim, int slot) {
    const PairArray copied = pair_array<kParts>(slot, kRowBlock, row_stride(dim));
    copy_rows<kParts>(x, stride, rows, dim, copied);
    return copied;
  }
  static void multiply(int64_t m, int64_t n, int64_t k, Pairs a, Pairs b, float* c, int64_t ldc) {
    multiply_pairs<kParts>(m, n, k, a, b, c, ldc, false);
  }
};

// ---- Backward

// Of kGradientRows queries of a head, and of all its keys.
struct BackwardScratch {
  float *s, *dp, *out;
  PairArray p, ds, ds_rows;
  PairArray q, d_o;                // rows
  PairArray turned_q, turned_d_o;  // [deep, pairs of rows]
  PairArray interleaved, kt, vt, k;
  float *turned_dk, *turned_dv;  // [deep, wide]
};

template <int kParts>
BackwardScratch backward_scratch(const Tile& tile) {
  const int64_t wide = tile.padded_length, deep = tile.padded_dim, depth = depth_of(tile.dim);
  constexpr int64_t kDown = kGradientRows / 2;
  const int64_t of_rows = row_stride(tile.dim);
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
          pair_array<kParts>(kInterleavedSlot, kDown, deep),
          pair_array<kParts>(kKtSlot, depth, wide),
          pair_array<kParts>(kVtSlot, depth, wide),
          pair_array<kParts>(kKSlot, wide / 2, deep),
          thread_scratch(kDkSlot, wide * deep),
          thread_scratch(kDvSlot, wide * deep)};
}

// Rows of `dim` numbers -> to[deep, pairs of rows]: rows 2p and 2p + 1 of every column, pairs side by side;
// zero beyond the rows, up to whole steps.
template <int kParts, typename T>
void turn_rows(const T* from, int64_t stride, int64_t rows, const Tile& tile, PairArray interleaved,
               PairArray to) {
  const int64_t padded = round_up(rows, kInner);
  interleave_rows<kParts>(from, stride, rows, padded, tile.dim, interleaved);
  for (int part = 0; part < kParts; ++part, interleaved.at += interleaved.part, to.at += to.part) {
    for (int64_t p = 0; p < padded / 2; p += kPairs) {
      for (int64_t d = 0; d < tile.padded_dim; d += 16) {
        __m512i words[16];
        for (int i = 0; i < 16; ++i) words[i] = _mm512_loadu_si512(interleaved.from(p + i, d).at);
        transpose_words(words);
        for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to.from(d + i, p).at, words[i]);
      }
    }
  }
}

// A turned sum [deep, wide] -> rows of keys.
template <typename T>
void scatter_turned(const float* from, const Tile& tile, T* to, int64_t stride) {
  for (int64_t key = 0; key < tile.length; key += 16) {
    for (int64_t d = 0; d < tile.dim; d += 16) {
      __m512i words[16];
      for (int i = 0; i < 16; ++i) words[i] = _mm512_loadu_si512(from + (d + i) * tile.padded_length + key);
      transpose_words(words);
      const int64_t rows = tile.length - key < 16 ? tile.length - key : 16;
      for (int64_t i = 0; i < rows; ++i)
        store_some(to + (key + i) * stride + d, (VecF)words[i], lanes_from(d, tile.dim));
    }
  }
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
                   const PairTerms& terms, int64_t i0, int64_t at, int64_t rows, const Columns& all) {
  const Attention<T>& f = op.forward;
  const int64_t wide = tile.padded_length, deep = tile.padded_dim, dim = tile.dim, depth = depth_of(dim);
  const int64_t first_pair = at / 2, pairs = (rows + 1) / 2, last_pair = first_pair + round_up(pairs, kPairs);
  T* const dq = op.dq + (tile.first_query + i0) * f.q_stride + tile.head * dim;
  const Columns columns = columns_of(tile, i0, rows);
  if (columns.none()) {
    for (int64_t r = 0; r < rows; ++r)
      std::memset(dq + r * f.q_stride, 0, sizeof(T) * static_cast<size_t>(dim));
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
  block_gradients<kParts>(f, tile, block, i0, rows, columns, ScoreForm(scale, f.scale, terms));
  multiply_pairs<kParts>(rows, deep, count / 2, t.ds_rows.from(0, begin / 2), t.k.from(begin / 2, 0), t.out,
                         deep, false);
  scatter(t.out, deep, rows, dim, 1.0f, dq, f.q_stride);
}

// Queries [i0, i0 + rows) of a head, at most kGradientRows.
template <int kParts, typename T>
void backward_block(const AttentionBackward<T>& op, const Tile& tile, const BackwardScratch& t,
                    const PairTerms& terms, int64_t i0, int64_t rows) {
  const Attention<T>& f = op.forward;
  const int64_t row = tile.first_query + i0, column = tile.head * tile.dim, wide = tile.padded_length;
  const T *q = f.q + row * f.q_stride + column, *d_o = op.d_o + row * f.o_stride + column;
  copy_rows<kParts>(q, f.q_stride, rows, tile.dim, t.q);
  copy_rows<kParts>(d_o, f.o_stride, rows, tile.dim, t.d_o);
  const Columns all = columns_of(tile, i0, rows);
  for (int64_t at = 0; at < rows; at += kRowBlock)
    backward_rows<kParts>(op, tile, t, terms, i0 + at, at, rows - at < kRowBlock ? rows - at : kRowBlock,
                          all);
  if (all.none()) return;
  turn_rows<kParts>(q, f.q_stride, rows, tile, t.interleaved, t.turned_q);
  turn_rows<kParts>(d_o, f.o_stride, rows, tile, t.interleaved, t.turned_d_o);
  const int64_t pairs = round_up(rows, kInner) / 2;
  const auto add = [&](Pairs turned, PairArray right, float* sum) {
    multiply_pairs<kParts>(tile.padded_dim, all.count(), pairs, turned, right.from(0, all.begin),
                           sum + all.begin, wide, true);
  };
  add(t.turned_d_o, t.p, t.turned_dv);
  add(t.turned_q, t.ds, t.turned_dk);
}

// All query heads that read one key head, so that dk and dv have one writer.
template <int kParts, typename T>
void backward_group(const AttentionBackward<T>& op, int64_t segment, int64_t kv_head, PairTerms& terms) {
  const Attention<T>& f = op.forward;
  const int64_t group = f.heads / f.kv_heads;
  Tile tile = make_tile(f, segment, kv_head * group);
  const BackwardScratch t = backward_scratch<kParts>(tile);
  const int64_t deep = tile.padded_dim, dim = tile.dim, wide = tile.padded_length, depth = depth_of(dim);
  const int64_t k_offset = tile.first_key * f.k_stride + kv_head * dim;
  const int64_t v_offset = tile.first_key * f.v_stride + kv_head * dim;
  transpose_pairs<kParts>(f.k + k_offset, f.k_stride, tile.length, dim, depth, t.kt);
  transpose_pairs<kParts>(f.v + v_offset, f.v_stride, tile.length, dim, depth, t.vt);
  interleave_rows<kParts>(f.k + k_offset, f.k_stride, tile.length, wide, dim, t.k);
  std::memset(t.turned_dk, 0, sizeof(float) * static_cast<size_t>(wide * deep));
  std::memset(t.turned_dv, 0, sizeof(float) * static_cast<size_t>(wide * deep));
  for (int64_t h = 0; h < group; ++h) {
    tile.head = kv_head * group + h;
    prepare_terms<TileProducts<kParts>>(f, tile, true, terms);
    for (int64_t i0 = 0; i0 < tile.queries; i0 += kGradientRows) {
      const int64_t rows = tile.queries - i0 < kGradientRows ? tile.queries - i0 : kGradientRows;
      backward_block<kParts>(op, tile, t, terms, i0, rows);
    }
  }
  scatter_turned(t.turned_dk, tile, op.dk + k_offset, f.k_stride);
  scatter_turned(t.turned_dv, tile, op.dv + v_offset, f.v_stride);
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
  if (!is_suitable(f) || f.relative) return avx512bf16::attention_backward(op);
  for_key_heads<OfThread>(op, 1.0f,
                          [&](int64_t segment, int64_t kv_head, const TermSums&, OfThread& of_thread) {
                            backward_group<kParts>(op, segment, kv_head, of_thread.terms);
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
