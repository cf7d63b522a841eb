#pragma once

// Operands of attention as arrays of bfloat16 pairs (uint32_t): neighbours in a row where the row is the
// summed dimension, two rows interleaved where the column is. Of float, all operands are sums of parts.
#include <type_traits>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/parts.h"
#include "kernels/cpu/transpose_words.h"

#if defined(__AVX512BF16__)
namespace msplora::kernels::MSPLORA_ISA {
namespace {

MSPLORA_INLINE VecF dot_pairs(VecF sum, VecU a, VecU b) {
  return (VecF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
MSPLORA_INLINE VecU load_u32(const uint32_t* p) {
  VecU v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
MSPLORA_INLINE void store_u32(uint32_t* p, VecU v) {
  std::memcpy(p, &v, sizeof(v));
}

// Operands: pair p of row i is at[i * stride + p], parts of floats lie `part` pairs apart.
template <typename Word>
struct PairView {
  Word* at;
  int64_t stride, part;

  PairView from(int64_t row, int64_t pair) const { return {at + row * stride + pair, stride, part}; }
  operator PairView<const uint32_t>() const requires(!std::is_const_v<Word>) { return {at, stride, part}; }
};
using Pairs = PairView<const uint32_t>;
using PairArray = PairView<uint32_t>;

// Scratch memory of so many rows of pairs, in each part.
template <int kParts>
PairArray pair_array(int slot, int64_t rows, int64_t stride) {
  return {reinterpret_cast<uint32_t*>(thread_scratch(slot, kParts * rows * stride)), stride, rows * stride};
}

// 16 pairs of each of 16 rows, transposed: `columns` rows of `to`. Of the numbers those that `valid` has, of
// rows `count`, or all where kIsWhole says so: masks of rows and their distances stay out of the way of
// words.
template <int kParts, bool kIsWhole, typename T>
MSPLORA_INLINE void transpose_block(const T* from, int64_t stride, int64_t count, __mmask32 valid,
                                    int64_t columns, PairArray to) {
  __m512i v[kParts][16];
#pragma GCC unroll 16
  for (int64_t i = 0; i < 16; ++i, from += stride) {
    __m512i words[kParts];
    load_parts(from, kIsWhole || i < count ? valid : __mmask32{0}, words);
    for (int part = 0; part < kParts; ++part) v[part][i] = words[part];
  }
  for (int part = 0; part < kParts; ++part, to.at += to.part) {
    transpose_words(v[part]);
    if (columns == 16) {
      uint32_t* column = to.at;
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i, column += to.stride) _mm512_storeu_si512(column, v[part][i]);
    } else {
      for (int64_t i = 0; i < columns; ++i) _mm512_storeu_si512(to.at + i * to.stride, v[part][i]);
    }
  }
}

// Rows of `dim` numbers, transposed: row p of `to` has pair p of every row, zero beyond `rows` and dim; it
// has `kept` rows, dim / 2 or more, and not above the next multiple of 16.
template <int kParts, typename T>
void transpose_pairs(const T* from, int64_t stride, int64_t rows, int64_t dim, int64_t kept, PairArray to) {
  for (int64_t r = 0; r < to.stride; r += 16) {
    for (int64_t p = 0; 2 * p < dim; p += kPairs) {
      const T* const block = from + r * stride + 2 * p;
      const __mmask32 valid = first_numbers(dim - 2 * p);
      const int64_t columns = kept - p < 16 ? kept - p : 16;
      if (rows - r >= 16) {
        transpose_block<kParts, true>(block, stride, 16, valid, columns, to.from(p, r));
      } else {
        transpose_block<kParts, false>(block, stride, rows - r, valid, columns, to.from(p, r));
      }
    }
  }
}

// Rows of `dim` numbers, interleaved: row p of `to` has the pairs of rows 2p and 2p + 1, zero outside.
template <int kParts, typename T>
void interleave_rows(const T* from, int64_t stride, int64_t rows, int64_t padded_rows, int64_t dim,
                     PairArray to) {
  for (int64_t p = 0; p < padded_rows / 2; ++p) {
    const T *even = from + 2 * p * stride, *odd = even + stride;
    for (int64_t d = 0; d < to.stride; d += 16) {
      const __mmask16 valid = first_lanes(dim - d);
      VecU pairs[kParts];
      load_pairs(even + d, odd + d, 2 * p < rows ? valid : __mmask16{0},
                 2 * p + 1 < rows ? valid : __mmask16{0}, pairs);
      for (int part = 0; part < kParts; ++part)
        store_u32(to.at + part * to.part + p * to.stride + d, pairs[part]);
    }
  }
}

// 16 floats of a row as pairs along it, from number `column` on.
template <int kParts>
MSPLORA_INLINE void store_numbers(PairArray row, int64_t column, VecF value) {
  store_parts<kParts>(reinterpret_cast<Number*>(row.at) + column, 2 * row.part, value);
}

// The same of 32 floats.
template <int kParts>
MSPLORA_INLINE void store_all_numbers(PairArray row, int64_t column, VecF low, VecF high) {
  for (int part = 0; part < kParts; ++part, row.at += row.part)
    _mm512_storeu_si512(reinterpret_cast<Number*>(row.at) + column, take_part(low, high));
}

// 16 columns of two rows as pairs down them; `row` is the row of pairs, at those columns.
template <int kParts>
MSPLORA_INLINE void store_columns(PairArray row, VecF even, VecF odd) {
  for (int part = 0; part < kParts; ++part) store_u32(row.at + part * row.part, take_pairs(even, odd));
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
#endif
