// Attention on tiles (AMX): products of 32 x 32 sums, or 16 where there are no more. Summed dimensions come
// in steps of 16 pairs and half a one at the end, so that keys and heads are padded to 16 alone. The
// gradients of keys and values are sums over queries, whose pairs lie down the columns of P and dS: they are
// formed as their transposes, dOᵀ P and Qᵀ dS, of kGradientRows queries at a time, as every product loads and
// stores the sums of all keys.
#include "kernels/amx/tiles.h"
#include "kernels/cpu/attention_pairs.h"

namespace msplora::kernels::avx512bf16 {
// What is not for tiles.
template <typename T>
bool attention_of_few(const Attention<T>& op);
template <typename T>
void attention(const Attention<T>& op);
template <typename T>
void attention_backward(const AttentionBackward<T>& op);
}  // namespace msplora::kernels::avx512bf16

namespace msplora::kernels::amx {
namespace {

constexpr int64_t kPairs = kInner / 2;            // of a step
constexpr int64_t kGradientRows = 4 * kRowBlock;  // queries

constexpr int kTurnedQSlot = 24, kTurnedDoSlot = 25, kInterleavedSlot = 26;

// ---- Products

struct RightPairs {
  const uint32_t* at;
  int64_t stride;
};

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

template <int kDown, int kAcross>
void form_block(int64_t k, LeftPairs a, RightPairs b, float* c, int64_t ldc, bool add) {
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
  int64_t p = 0;
  for (; p + kPairs <= k; p += kPairs)
    add_step<kDown, kAcross, 4, 5>(a.at + p, a_bytes, next_a, b.at + p * b.stride, b_bytes);
  if (p < k) add_step<kDown, kAcross, 6, 7>(a.at + p, a_bytes, next_a, b.at + p * b.stride, b_bytes);
  store_tile<0>(c, bytes);
  if constexpr (kAcross > 1) store_tile<1>(c + kSums, bytes);
  if constexpr (kDown > 1) store_tile<2>(below, bytes);
  if constexpr (kDown > 1 && kAcross > 1) store_tile<3>(below + kSums, bytes);
}

// c[m, n] (+)= a b over k pairs. m and n are taken as multiples of 16, k is a multiple of 8.
void multiply_pairs(int64_t m, int64_t n, int64_t k, LeftPairs a, RightPairs b, float* c, int64_t ldc,
                    bool add) {
  for (int64_t i = 0; i < m; i += 2 * kRows) {
    const LeftPairs rows{a.at + i * a.stride, a.stride};
    for (int64_t j = 0; j < n; j += 2 * kSums) {
      const RightPairs columns{b.at + j, b.stride};
      float* const to = c + i * ldc + j;
      const bool is_tall = m - i > kRows, is_broad = n - j > kSums;
      if (is_tall && is_broad) {
        form_block<2, 2>(k, rows, columns, to, ldc, add);
      } else if (is_tall) {
        form_block<2, 1>(k, rows, columns, to, ldc, add);
      } else if (is_broad) {
        form_block<1, 2>(k, rows, columns, to, ldc, add);
      } else {
        form_block<1, 1>(k, rows, columns, to, ldc, add);
      }
    }
  }
}

// Pairs of a row of q and k, a multiple of half a step.
int64_t depth_of(int64_t dim) {
  return round_up(dim, kPairs) / 2;
}

// Rows of `dim` values, as pairs with zeros behind them, at the beginning of lines; whole blocks of 16 rows.
void copy_rows(const Bfloat16* from, int64_t stride, int64_t rows, int64_t dim, LeftPairs to) {
  auto* const pairs = const_cast<uint32_t*>(to.at);
  for (int64_t r = 0; r < round_up(rows, kRows); ++r) {
    for (int64_t d = 0; d < to.stride * 2; d += kInner) {
      const __mmask32 valid = first_numbers(r < rows ? dim - d : 0);
      _mm512_storeu_si512(pairs + r * to.stride + d / 2,
                          _mm512_maskz_loadu_epi16(valid, from + r * stride + d));
    }
  }
}

// Pairs from one such row to the next: whole lines.
int64_t row_stride(int64_t dim) {
  return round_up(dim, kInner) / 2;
}

struct TileProducts {
  static int64_t depth(int64_t dim) { return depth_of(dim); }
  static int64_t pair_stride(int64_t wide) { return row_stride(wide); }
  static LeftPairs left(const Bfloat16* x, int64_t stride, int64_t rows, int64_t dim, int slot) {
    const LeftPairs copied{pair_scratch(slot, kRowBlock * row_stride(dim)), row_stride(dim)};
    copy_rows(x, stride, rows, dim, copied);
    return copied;
  }
  static void multiply(int64_t m, int64_t n, int64_t k, LeftPairs a, const uint32_t* b, int64_t ldb, float* c,
                       int64_t ldc) {
    multiply_pairs(m, n, k, a, {b, ldb}, c, ldc, false);
  }
};

// ---- Backward

// Of kGradientRows queries of a head, and of all its keys.
struct BackwardScratch {
  float *s, *dp, *out;
  uint32_t *p, *ds, *ds_rows;
  LeftPairs q, d_o;                // rows
  LeftPairs turned_q, turned_d_o;  // [deep, pairs of rows]
  uint32_t *interleaved, *kt, *vt, *k;
  float *turned_dk, *turned_dv;  // [deep, wide]
};

BackwardScratch backward_scratch(const Tile& tile) {
  const int64_t wide = tile.padded_length, deep = tile.padded_dim, depth = depth_of(tile.dim);
  constexpr int64_t kDown = kGradientRows / 2;
  const int64_t of_rows = row_stride(tile.dim);
  return {thread_scratch(kPSlot, kRowBlock * wide),
          thread_scratch(kDsSlot, kRowBlock * wide),
          thread_scratch(kOutSlot, kRowBlock * deep),
          pair_scratch(kWidePairSlot, kDown * wide),
          pair_scratch(kGradientPairSlot, kDown * wide),
          pair_scratch(kGradientRowSlot, kRowBlock * row_stride(wide)),
          {pair_scratch(kQSlot, kGradientRows * of_rows), of_rows},
          {pair_scratch(kDoSlot, kGradientRows * of_rows), of_rows},
          {pair_scratch(kTurnedQSlot, deep * kDown), kDown},
          {pair_scratch(kTurnedDoSlot, deep * kDown), kDown},
          pair_scratch(kInterleavedSlot, kDown * deep),
          pair_scratch(kKtSlot, depth * wide),
          pair_scratch(kVtSlot, depth * wide),
          pair_scratch(kKSlot, wide / 2 * deep),
          thread_scratch(kDkSlot, wide * deep),
          thread_scratch(kDvSlot, wide * deep)};
}

// Rows of `dim` values -> to[deep, pairs of rows]: rows 2p and 2p + 1 of every column, pairs side by side;
// zero beyond the rows, up to whole steps.
void turn_rows(const Bfloat16* from, int64_t stride, int64_t rows, const Tile& tile, uint32_t* interleaved,
               LeftPairs to) {
  const int64_t deep = tile.padded_dim, padded = round_up(rows, kInner);
  interleave_rows(from, stride, rows, padded, tile.dim, deep, interleaved);
  for (int64_t p = 0; p < padded / 2; p += kPairs) {
    for (int64_t d = 0; d < deep; d += 16) {
      __m512i words[16];
      for (int i = 0; i < 16; ++i) words[i] = _mm512_loadu_si512(interleaved + (p + i) * deep + d);
      transpose_words(words);
      for (int i = 0; i < 16; ++i)
        _mm512_storeu_si512(const_cast<uint32_t*>(to.at) + (d + i) * to.stride + p, words[i]);
    }
  }
}

// A turned sum [deep, wide] -> rows of keys.
void scatter_turned(const float* from, const Tile& tile, Bfloat16* to, int64_t stride) {
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
void clear_pairs(const BackwardScratch& t, int64_t wide, int64_t first, int64_t last, int64_t begin,
                 int64_t end) {
  if (begin >= end) return;
  const size_t bytes = sizeof(uint32_t) * static_cast<size_t>(end - begin);
  for (int64_t p = first; p < last; ++p) {
    std::memset(t.p + p * wide + begin, 0, bytes);
    std::memset(t.ds + p * wide + begin, 0, bytes);
  }
}

// Queries [i0, i0 + rows), the first of which is at row `at` of the scratch: dQ, and P and dS as pairs in the
// columns `all`.
void backward_rows(const AttentionBackward<Bfloat16>& op, const Tile& tile, const BackwardScratch& t,
                   int64_t i0, int64_t at, int64_t rows, const Columns& all) {
  const Attention<Bfloat16>& f = op.forward;
  const int64_t wide = tile.padded_length, deep = tile.padded_dim, dim = tile.dim, depth = depth_of(dim);
  const int64_t first_pair = at / 2, pairs = (rows + 1) / 2, last_pair = first_pair + round_up(pairs, kPairs);
  Bfloat16* const dq = op.dq + (tile.first_query + i0) * f.q_stride + tile.head * dim;
  const Columns columns = columns_of(tile, i0, rows);
  if (columns.none()) {
    for (int64_t r = 0; r < rows; ++r)
      std::memset(dq + r * f.q_stride, 0, sizeof(Bfloat16) * static_cast<size_t>(dim));
    return clear_pairs(t, wide, first_pair, last_pair, all.begin, all.padded_end);
  }
  clear_pairs(t, wide, first_pair, last_pair, all.begin, columns.begin);
  clear_pairs(t, wide, first_pair, last_pair, columns.padded_end, all.padded_end);
  clear_pairs(t, wide, first_pair + pairs, last_pair, columns.begin, columns.padded_end);
  const int64_t begin = columns.begin, count = columns.count();
  const LeftPairs q{t.q.at + at * t.q.stride, t.q.stride}, d_o{t.d_o.at + at * t.d_o.stride, t.d_o.stride};
  multiply_pairs(rows, count, depth, q, {t.kt + begin, wide}, t.s + begin, wide, false);
  multiply_pairs(rows, count, depth, d_o, {t.vt + begin, wide}, t.dp + begin, wide, false);
  const PairScratch pair_rows{
      t.s, t.dp, t.p + first_pair * wide, t.ds + first_pair * wide, t.ds_rows, row_stride(wide)};
  block_gradients(f, tile, pair_rows, i0, rows, columns);
  multiply_pairs(rows, deep, count / 2, {t.ds_rows + begin / 2, row_stride(wide)},
                 {t.k + begin / 2 * deep, deep}, t.out, deep, false);
  scatter(t.out, deep, rows, dim, 1.0f, dq, f.q_stride);
}

// Queries [i0, i0 + rows) of a head, at most kGradientRows.
void backward_block(const AttentionBackward<Bfloat16>& op, const Tile& tile, const BackwardScratch& t,
                    int64_t i0, int64_t rows) {
  const Attention<Bfloat16>& f = op.forward;
  const int64_t row = tile.first_query + i0, column = tile.head * tile.dim, wide = tile.padded_length;
  const Bfloat16 *q = f.q + row * f.q_stride + column, *d_o = op.d_o + row * f.o_stride + column;
  copy_rows(q, f.q_stride, rows, tile.dim, t.q);
  copy_rows(d_o, f.o_stride, rows, tile.dim, t.d_o);
  const Columns all = columns_of(tile, i0, rows);
  for (int64_t at = 0; at < rows; at += kRowBlock)
    backward_rows(op, tile, t, i0 + at, at, rows - at < kRowBlock ? rows - at : kRowBlock, all);
  if (all.none()) return;
  turn_rows(q, f.q_stride, rows, tile, t.interleaved, t.turned_q);
  turn_rows(d_o, f.o_stride, rows, tile, t.interleaved, t.turned_d_o);
  const int64_t pairs = round_up(rows, kInner) / 2;
  const auto add = [&](LeftPairs turned, const uint32_t* right, float* sum) {
    multiply_pairs(tile.padded_dim, all.count(), pairs, turned, {right + all.begin, wide}, sum + all.begin,
                   wide, true);
  };
  add(t.turned_d_o, t.p, t.turned_dv);
  add(t.turned_q, t.ds, t.turned_dk);
}

// All query heads that read one key head, so that dk and dv have one writer.
void backward_group(const AttentionBackward<Bfloat16>& op, int64_t segment, int64_t kv_head) {
  const Attention<Bfloat16>& f = op.forward;
  const int64_t group = f.heads / f.kv_heads;
  Tile tile = make_tile(f, segment, kv_head * group);
  const BackwardScratch t = backward_scratch(tile);
  const int64_t deep = tile.padded_dim, dim = tile.dim, wide = tile.padded_length, depth = depth_of(dim);
  const int64_t k_offset = tile.first_key * f.k_stride + kv_head * dim;
  const int64_t v_offset = tile.first_key * f.v_stride + kv_head * dim;
  transpose_pairs(f.k + k_offset, f.k_stride, tile.length, dim, depth, wide, t.kt);
  transpose_pairs(f.v + v_offset, f.v_stride, tile.length, dim, depth, wide, t.vt);
  interleave_rows(f.k + k_offset, f.k_stride, tile.length, wide, dim, deep, t.k);
  std::memset(t.turned_dk, 0, sizeof(float) * static_cast<size_t>(wide * deep));
  std::memset(t.turned_dv, 0, sizeof(float) * static_cast<size_t>(wide * deep));
  for (int64_t h = 0; h < group; ++h) {
    tile.head = kv_head * group + h;
    for (int64_t i0 = 0; i0 < tile.queries; i0 += kGradientRows)
      backward_block(op, tile, t, i0, tile.queries - i0 < kGradientRows ? tile.queries - i0 : kGradientRows);
  }
  scatter_turned(t.turned_dk, tile, op.dk + k_offset, f.k_stride);
  scatter_turned(t.turned_dv, tile, op.dv + v_offset, f.v_stride);
}

}  // namespace

template <>
void attention(const Attention<Bfloat16>& op) {
  if (!is_suitable(op)) return avx512bf16::attention(op);
  if (!avx512bf16::attention_of_few(op)) return;
  const int64_t tasks = op.num_segments * op.heads, chunk = tasks_at_a_time(op.num_segments, op.heads);
#pragma omp parallel if (is_parallel(op))
  {
    const Tiles tiles(Shapes::kHalfSteps);
#pragma omp for schedule(dynamic, chunk)
    for (int64_t task = 0; task < tasks; ++task) {
      const Tile tile = make_tile(op, task / op.heads, task % op.heads);
      if (tile.queries > 0 && !has_few_queries(op, op.segments[task / op.heads]))
        forward_head<TileProducts>(op, tile);
    }
  }
}

template <>
void attention_backward(const AttentionBackward<Bfloat16>& op) {
  const Attention<Bfloat16>& f = op.forward;
  if (!is_suitable(f)) return avx512bf16::attention_backward(op);
  const int64_t tasks = f.num_segments * f.kv_heads, chunk = tasks_at_a_time(f.num_segments, f.kv_heads);
#pragma omp parallel if (is_parallel(f))
  {
    const Tiles tiles(Shapes::kHalfSteps);
#pragma omp for schedule(dynamic, chunk)
    for (int64_t task = 0; task < tasks; ++task) backward_group(op, task / f.kv_heads, task % f.kv_heads);
  }
}

}  // namespace msplora::kernels::amx
