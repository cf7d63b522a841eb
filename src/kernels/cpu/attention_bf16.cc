// Attention on bfloat16 dot products: one instruction multiplies 16 pairs of neighbours and adds both
// products in float.
#include "kernels/cpu/attention_pairs.h"

namespace msplora::kernels::MSPLORA_ISA {

#if defined(__AVX512BF16__)
namespace {

// The rows of q or dO as pairs, where they lie.
MSPLORA_INLINE const uint32_t* as_pairs(const Bfloat16* p) {
  return reinterpret_cast<const uint32_t*>(p);
}

// C[Rows, 16 Vectors] (+)= A B over k pairs; pair p of row i of A is a[i * a_row + p * a_col].
template <int Rows, int Vectors>
MSPLORA_INLINE void pair_tile(int64_t k, const uint32_t* a, int64_t a_row, int64_t a_col, const uint32_t* b,
                              int64_t ldb, float* c, int64_t ldc, bool add) {
  VecF acc[Rows][Vectors];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) acc[i][j] = add ? load(c + i * ldc + j * kLanes) : splat(0.0f);
  for (int64_t p = 0; p < k; ++p) {
    VecU row[Vectors];
    for (int j = 0; j < Vectors; ++j) row[j] = load_u32(b + p * ldb + j * kLanes);
    for (int i = 0; i < Rows; ++i) {
      const VecU pair = VecU{} + a[i * a_row + p * a_col];
      for (int j = 0; j < Vectors; ++j) acc[i][j] = dot_pairs(acc[i][j], pair, row[j]);
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) store(c + i * ldc + j * kLanes, acc[i][j]);
}

template <int Rows>
void pair_rows(int64_t n, int64_t k, const uint32_t* a, int64_t a_row, int64_t a_col, const uint32_t* b,
               int64_t ldb, float* c, int64_t ldc, bool add) {
  constexpr int kWide = 4;
  int64_t j = 0;
  for (; j + kWide * kLanes <= n; j += kWide * kLanes)
    pair_tile<Rows, kWide>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, add);
  for (; j < n; j += kLanes) pair_tile<Rows, 1>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, add);
}

void pair_gemm(int64_t m, int64_t n, int64_t k, const uint32_t* a, int64_t a_row, int64_t a_col,
               const uint32_t* b, int64_t ldb, float* c, int64_t ldc, bool add) {
  int64_t i = 0;
  for (; i + 4 <= m; i += 4) pair_rows<4>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, add);
  for (; i < m; ++i) pair_rows<1>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, add);
}

struct DotProducts {
  static constexpr int kParts = 1;
  static int64_t depth(int64_t dim) { return dim / 2; }
  static int64_t pair_stride(int64_t wide) { return wide / 2; }
  static Pairs left(const Bfloat16* x, int64_t stride, int64_t /*rows*/, int64_t /*dim*/, int /*slot*/) {
    return {as_pairs(x), stride / 2, 0};
  }
  static void multiply(int64_t m, int64_t n, int64_t k, Pairs a, Pairs b, float* c, int64_t ldc) {
    pair_gemm(m, n, k, a.at, a.stride, 1, b.at, b.stride, c, ldc, false);
  }
};

constexpr int kTermRowSlot = 40, kTermColumnSlot = 41;

struct BackwardScratch {
  BlockScratch rows;
  PairArray kt, vt, k, q, d_o;
  float *dk, *dv, *out;
};

// Gradients of relative terms as operands, `rows` of them.
struct PackedGradients {
  PairArray along, down;
  int64_t rows;  // an even number

  PackedGradients(const float* from, int64_t rows, int64_t wide, double scale)
      : along(pair_array<1>(kTermRowSlot, round_up(rows, 2), wide / 2)),
        down(pair_array<1>(kTermColumnSlot, round_up(rows, 2) / 2, wide)),
        rows(round_up(rows, 2)) {
    pack_gradients<1>(from, this->rows, wide, static_cast<float>(scale), along, down);
  }
};

BackwardScratch backward_scratch(const Tile& tile) {
  const int64_t wide = tile.padded_length, deep = tile.padded_dim, block = kRowBlock / 2;
  return {{thread_scratch(kPSlot, kRowBlock * wide), thread_scratch(kDsSlot, kRowBlock * wide),
           pair_array<1>(kWidePairSlot, block, wide), pair_array<1>(kGradientPairSlot, block, wide),
           pair_array<1>(kGradientRowSlot, kRowBlock, wide / 2)},
          pair_array<1>(kKtSlot, tile.dim / 2, wide),
          pair_array<1>(kVtSlot, tile.dim / 2, wide),
          pair_array<1>(kKSlot, wide / 2, deep),
          pair_array<1>(kQSlot, block, deep),
          pair_array<1>(kDoSlot, block, deep),
          thread_scratch(kDkSlot, wide * deep),
          thread_scratch(kDvSlot, wide * deep),
          thread_scratch(kOutSlot, kRowBlock * deep)};
}

// `gradient` += G table and `sum` += Gᵀ x, of the gradients G of products of x with a table by buckets.
void add_through_table(const PackedGradients& g, const Terms& terms, int64_t rows, int64_t deep, Pairs table,
                       Pairs x, float* gradient, float* sum) {
  pair_gemm(rows, deep, terms.wide / 2, g.along.at, g.along.stride, 1, table.at, table.stride, gradient, deep,
            true);
  pair_gemm(terms.count, deep, g.rows / 2, g.down.at, 1, g.down.stride, x.at, x.stride,
            sum + terms.first * deep, deep, true);
}

void backward_block(const AttentionBackward<Bfloat16>& op, const Tile& tile, const BackwardScratch& t,
                    const PairTerms& terms, const TermGradients& gradients, const HeadsAhead<Bfloat16>& ahead,
                    int64_t i0) {
  const Attention<Bfloat16>& f = op.forward;
  const int64_t dim = tile.dim, wide = tile.padded_length, deep = tile.padded_dim;
  const int64_t rows = tile.queries - i0 < kRowBlock ? tile.queries - i0 : kRowBlock;
  const int64_t row = tile.first_query + i0, column = tile.head * dim;
  const int64_t pairs = (rows + 1) / 2;
  const Columns columns = columns_of(tile, i0, rows);
  const int64_t first = columns.begin, count = columns.count();
  Bfloat16* const dq = op.dq + row * f.q_stride + column;
  if (columns.none()) {
    for (int64_t r = 0; r < rows; ++r)
      std::memset(dq + r * f.q_stride, 0, sizeof(Bfloat16) * static_cast<size_t>(dim));
    return;
  }
  const Bfloat16 *q = f.q + row * f.q_stride + column, *d_o = op.d_o + row * f.o_stride + column;
  interleave_rows<1>(q, f.q_stride, rows, 2 * pairs, dim, t.q);
  interleave_rows<1>(d_o, f.o_stride, rows, 2 * pairs, dim, t.d_o);
  pair_gemm(rows, count, dim / 2, as_pairs(q), f.q_stride / 2, 1, t.kt.at + first, wide, t.rows.s + first,
            wide, false);
  const float scale = complete_scores<DotProducts>(tile, terms, {as_pairs(q), f.q_stride / 2, 0}, i0, rows,
                                                   columns, static_cast<float>(f.scale), t.rows.s);
  pair_gemm(rows, count, dim / 2, as_pairs(d_o), f.o_stride / 2, 1, t.vt.at + first, wide, t.rows.dp + first,
            wide, false);
  block_gradients<1>(f, tile, t.rows, i0, rows, columns, ScoreForm(scale, f.scale, terms), ahead);
  pair_gemm(count, deep, pairs, t.rows.p.at + first, 1, wide, t.d_o.at, deep, t.dv + first * deep, deep,
            true);
  pair_gemm(count, deep, pairs, t.rows.ds.at + first, 1, wide, t.q.at, deep, t.dk + first * deep, deep, true);
  pair_gemm(rows, deep, count / 2, t.rows.ds_rows.at + first / 2, wide / 2, 1, t.k.from(first / 2, 0).at,
            deep, t.out, deep, false);
  if (terms.bucket_of) collect_term_gradients(tile, terms, gradients, t.rows.dp, i0, rows, columns);
  if (terms.query_products) {
    const PackedGradients g(gradients.of_products, rows, terms.wide, f.scale);
    add_through_table(g, terms, rows, deep, terms.key, t.q, t.out, gradients.sums.key);
  }
  scatter(t.out, deep, rows, dim, 1.0f, dq, f.q_stride);
}

// All query heads that read one key head, so that dk and dv have one writer.
void backward_group(const AttentionBackward<Bfloat16>& op, int64_t segment, int64_t kv_head,
                    const TermSums& sums, PairTerms& terms) {
  const Attention<Bfloat16>& f = op.forward;
  const int64_t group = f.heads / f.kv_heads;
  Tile tile = make_tile(f, segment, kv_head * group);
  const int64_t deep = tile.padded_dim, dim = tile.dim, wide = tile.padded_length;
  const BackwardScratch t = backward_scratch(tile);
  const int64_t k_offset = tile.first_key * f.k_stride + kv_head * dim;
  const int64_t v_offset = tile.first_key * f.v_stride + kv_head * dim;
  transpose_pairs<1>(f.k + k_offset, f.k_stride, tile.length, dim, dim / 2, t.kt);
  transpose_pairs<1>(f.v + v_offset, f.v_stride, tile.length, dim, dim / 2, t.vt);
  interleave_rows<1>(f.k + k_offset, f.k_stride, tile.length, wide, dim, t.k);
  std::memset(t.dk, 0, sizeof(float) * static_cast<size_t>(wide * deep));
  std::memset(t.dv, 0, sizeof(float) * static_cast<size_t>(wide * deep));
  for (int64_t h = 0; h < group; ++h) {
    tile.head = kv_head * group + h;
    if (tile.queries == 0) continue;
    prepare_terms<DotProducts>(f, tile, true, terms);
    const HeadsAhead<Bfloat16> ahead(op, tile);
    TermGradients gradients{};
    if (terms.bucket_of) gradients = make_term_gradients(tile, terms, sums.of_head(h));
    for (int64_t i0 = 0; i0 < tile.queries; i0 += kRowBlock)
      backward_block(op, tile, t, terms, gradients, ahead, i0);
    if (terms.key_products) {
      const PackedGradients g(gradients.of_key_products, tile.padded_length, terms.wide, f.scale);
      add_through_table(g, terms, tile.length, deep, terms.query, t.k, t.dk, gradients.sums.query);
    }
  }
  scatter(t.dk, deep, tile.length, dim, 1.0f, op.dk + k_offset, f.k_stride);
  scatter(t.dv, deep, tile.length, dim, 1.0f, op.dv + v_offset, f.v_stride);
}

}  // namespace

bool attention_in_pairs(const Attention<Bfloat16>& op) {
  if (!is_suitable(op)) return false;
  for_heads<PairTerms>(
      op, [&](const Tile& tile, PairTerms& terms) { forward_head<DotProducts>(op, tile, terms); });
  return true;
}

bool attention_in_pairs_backward(const AttentionBackward<Bfloat16>& op) {
  if (!is_suitable(op.forward)) return false;
  for_key_heads<PairTerms>(op, 1.0f,
                           [&](int64_t segment, int64_t kv_head, const TermSums& sums, PairTerms& terms) {
                             backward_group(op, segment, kv_head, sums, terms);
                           });
  return true;
}

#else

bool attention_in_pairs(const Attention<Bfloat16>&) {
  return false;
}
bool attention_in_pairs_backward(const AttentionBackward<Bfloat16>&) {
  return false;
}

#endif

}  // namespace msplora::kernels::MSPLORA_ISA
