#pragma once

// Gradients of relative terms (cpu/attention_terms.h) on tiles.
#include "kernels/amx/attention_products.h"
#include "kernels/cpu/attention_pair_terms.h"

namespace msplora::kernels::amx {
namespace {

constexpr int64_t kGradientRows = 4 * kRowBlock;  // queries, or keys, that one product sums over

constexpr int kTermRowSlot = 40, kTermColumnSlot = 41, kTurnedKSlot = 45, kTermDkSlot = 46;

// Sums by bucket are turned: [deep, stride].
struct TurnedSums {
  static int64_t stride(int64_t buckets) { return round_up(buckets, 16); }
  static int64_t size(int64_t buckets, int64_t deep) { return deep * stride(buckets); }
  template <typename T>
  static void write(const float* sums, int64_t buckets, int64_t dim, float scale, T* to, int64_t to_stride) {
    scatter_turned(sums, stride(buckets), buckets, dim, scale, nullptr, to, to_stride);
  }
};

// Of one query head of a segment. The gradients G of products of x with a table by bucket add G table to the
// gradient of x, and Gᵀ x to that of the table.
template <int kParts>
class TermGradientProducts {
 public:
  TermGradientProducts(const Tile& tile, const PairTerms& terms, const TermGradients& gradients, double scale)
      : tile_(tile),
        terms_(terms),
        gradients_(gradients),
        scale_(static_cast<float>(scale)),
        along_(pair_array<kParts>(kTermRowSlot, kGradientRows, row_stride(terms.wide))),
        down_(pair_array<kParts>(kTermColumnSlot, kGradientRows / 2, terms.wide)) {}

  /// Of queries [i0, i0 + rows), which begin at the pair `first_pair` of a product over kGradientRows: onto
  /// d_q [rows, deep]. ds: the gradients of their scores.
  void add_rows(const float* ds, int64_t i0, int64_t rows, const Columns& columns, int64_t first_pair,
                float* d_q) const {
    collect_term_gradients(tile_, terms_, gradients_, ds, i0, rows, columns);
    if (terms_.query_products == nullptr) return;
    const int64_t even = round_up(rows, 2), deep = tile_.padded_dim;
    pack_gradients<kParts>(gradients_.of_products, even, terms_.wide, scale_, along_,
                           down_.from(first_pair, 0));
    clear_rows(first_pair + even / 2, first_pair + round_up(rows, kInner) / 2);
    multiply_pairs<kParts>(rows, deep, terms_.wide / 2, along_, terms_.key, d_q, deep, true);
  }
  /// Queries that see nothing have no gradients.
  void skip_rows(int64_t rows, int64_t first_pair) const {
    if (terms_.query_products) clear_rows(first_pair, first_pair + round_up(rows, kInner) / 2);
  }
  /// Of the queries added since the last call; turned_q: [deep, pairs of them].
  void add_to_key_table(Pairs turned_q, int64_t pairs) const {
    if (terms_.query_products) add_to_table(turned_q, pairs, gradients_.sums.key);
  }
  /// When all queries were added: onto d_k [padded_length, deep]. turned_k: [deep, pairs of keys].
  void finish(Pairs turned_k, float* d_k) const {
    if (terms_.key_products == nullptr) return;
    const int64_t deep = tile_.padded_dim, wide = terms_.wide;
    for (int64_t key = 0; key < tile_.padded_length; key += kGradientRows) {
      const int64_t left = tile_.padded_length - key, rows = left < kGradientRows ? left : kGradientRows;
      pack_gradients<kParts>(gradients_.of_key_products + key * wide, rows, wide, scale_, along_, down_);
      multiply_pairs<kParts>(rows, deep, wide / 2, along_, terms_.query, d_k + key * deep, deep, true);
      add_to_table(turned_k.from(0, key / 2), rows / 2, gradients_.sums.query);
    }
  }

 private:
  void add_to_table(Pairs turned, int64_t pairs, float* sums) const {
    multiply_pairs<kParts>(tile_.padded_dim, terms_.wide, pairs, turned, down_, sums + terms_.first,
                           TurnedSums::stride(gradients_.sums.buckets), true);
  }
  void clear_rows(int64_t begin, int64_t end) const {
    if (begin >= end) return;
    const size_t bytes = sizeof(uint32_t) * static_cast<size_t>((end - begin) * terms_.wide);
    for (int part = 0; part < kParts; ++part)
      std::memset(down_.from(begin, 0).at + part * down_.part, 0, bytes);
  }

  const Tile& tile_;
  const PairTerms& terms_;
  const TermGradients& gradients_;
  float scale_;
  PairArray along_, down_;
};

}  // namespace
}  // namespace msplora::kernels::amx
