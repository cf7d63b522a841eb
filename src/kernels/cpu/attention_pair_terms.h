#pragma once

// The products of relative terms in pairs (attention_pairs.h says what `Products` are).
#include "kernels/cpu/attention_terms.h"
#include "kernels/cpu/pair_operands.h"

#if defined(__AVX512BF16__)
namespace msplora::kernels::MSPLORA_ISA {
namespace {

// The scale of scores is in neither table.
struct PairTerms : Terms {
  PairArray key_t{}, query_t{};  // [depth, wide]
  PairArray key{}, query{};      // [wide / 2, deep], where gradients are asked for
};

template <typename Products, typename T>
void pack_tables(const Attention<T>& op, const Tile& tile, bool with_gradient, PairTerms& terms) {
  constexpr int kParts = Products::kParts;
  const int64_t dim = tile.dim, depth = Products::depth(dim), stride = op.heads * dim;
  const auto pack = [&](const T* table, int turned_slot, int slot, PairArray& turned, PairArray& rows) {
    const T* const from = table + terms.first * stride + tile.head * dim;
    turned = pair_array<kParts>(turned_slot, depth, terms.wide);
    transpose_pairs<kParts>(from, stride, terms.count, dim, depth, turned);
    if (!with_gradient) return;
    rows = pair_array<kParts>(slot, terms.wide / 2, tile.padded_dim);
    interleave_rows<kParts>(from, stride, terms.count, terms.wide, dim, rows);
  };
  if (terms.query_products)
    pack(op.relative->key, kRelativeKeyTSlot, kRelativeKeySlot, terms.key_t, terms.key);
  if (terms.key_products)
    pack(op.relative->query, kRelativeQueryTSlot, kRelativeQuerySlot, terms.query_t, terms.query);
}

template <typename Products, typename T>
void prepare_terms(const Attention<T>& op, const Tile& tile, bool with_gradient, PairTerms& terms) {
  if (begin_terms(op, tile, with_gradient, static_cast<float>(1.0 / op.scale), terms))
    pack_tables<Products>(op, tile, with_gradient, terms);
  const int64_t kv_head = tile.head / (op.heads / op.kv_heads);
  for (int64_t i = 0; terms.key_products && i < tile.length; i += kRowBlock) {
    const int64_t rows = tile.length - i < kRowBlock ? tile.length - i : kRowBlock;
    const T* const k = op.k + (tile.first_key + i) * op.k_stride + kv_head * tile.dim;
    Products::multiply(rows, terms.wide, Products::depth(tile.dim),
                       Products::left(k, op.k_stride, rows, tile.dim, kQSlot), terms.query_t,
                       terms.key_products + i * terms.wide, terms.wide);
  }
}

// q kᵀ of rows [i0, i0 + rows) -> what the scores are when multiplied by the number that is returned.
template <typename Products>
float complete_scores(const Tile& tile, const PairTerms& terms, Pairs q, int64_t i0, int64_t rows,
                      const Columns& columns, float scale, float* s) {
  if (terms.query_products)
    Products::multiply(rows, terms.wide, Products::depth(tile.dim), q, terms.key_t, terms.query_products,
                       terms.wide);
  if (terms.bucket_of) add_terms(tile, terms, i0, rows, columns, s);
  if (terms.cap <= 0) return scale;
  cap_scores(tile, terms, i0, rows, columns, scale, s);
  return 1.0f;
}

// An even number of rows of gradients, times `scale`, as pairs along the rows and down the columns.
template <int kParts>
void pack_gradients(const float* from, int64_t rows, int64_t wide, float scale, PairArray along,
                    PairArray down) {
  for (int64_t r = 0; r < rows; r += 2) {
    for (int64_t b = 0; b < wide; b += kLanes) {
      const VecF even = load(from + r * wide + b) * scale, odd = load(from + (r + 1) * wide + b) * scale;
      store_numbers<kParts>(along.from(r, 0), b, even);
      store_numbers<kParts>(along.from(r + 1, 0), b, odd);
      store_columns<kParts>(down.from(r / 2, b), even, odd);
    }
  }
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
#endif
