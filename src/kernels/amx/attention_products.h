#pragma once

// Products of attention on tiles: 32 x 32 sums, or 16 where there are no more. Summed dimensions come in
// steps of 16 pairs and half a one at the end, so that keys and heads are padded to 16 alone. Sums over
// queries have their pairs down the columns of what is multiplied: their transposes are formed, [deep, rows].
#include "kernels/amx/tiles.h"
#include "kernels/cpu/pair_operands.h"

namespace msplora::kernels::amx {
namespace {

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

// Rows of pairs [rows, deep], interleaved -> to[deep, rows]; rows and deep are multiples of 16.
template <int kParts>
void turn_pairs(PairArray interleaved, int64_t rows, int64_t deep, PairArray to) {
  for (int part = 0; part < kParts; ++part, interleaved.at += interleaved.part, to.at += to.part) {
    for (int64_t p = 0; p < rows; p += kPairs) {
      for (int64_t d = 0; d < deep; d += 16) {
        __m512i words[16];
        for (int i = 0; i < 16; ++i) words[i] = _mm512_loadu_si512(interleaved.from(p + i, d).at);
        transpose_words(words);
        for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to.from(d + i, p).at, words[i]);
      }
    }
  }
}

// Rows of `dim` numbers -> to[deep, pairs of rows]: rows 2p and 2p + 1 of every column, pairs side by side;
// zero beyond the rows, up to whole steps.
template <int kParts, typename T>
void turn_rows(const T* from, int64_t stride, int64_t rows, const Tile& tile, PairArray interleaved,
               PairArray to) {
  const int64_t padded = round_up(rows, kInner);
  interleave_rows<kParts>(from, stride, rows, padded, tile.dim, interleaved);
  turn_pairs<kParts>(interleaved, padded / 2, tile.padded_dim, to);
}

// A turned sum [dim, from_stride], and `beside` [rows, deep] where there is one, times `scale` -> rows.
template <typename T>
void scatter_turned(const float* from, int64_t from_stride, int64_t rows, int64_t dim, float scale,
                    const float* beside, T* to, int64_t stride) {
  const int64_t deep = round_up(dim, 16);
  for (int64_t row = 0; row < rows; row += 16) {
    for (int64_t d = 0; d < dim; d += 16) {
      __m512i words[16];
      for (int i = 0; i < 16; ++i) words[i] = _mm512_loadu_si512(from + (d + i) * from_stride + row);
      transpose_words(words);
      const int64_t count = rows - row < 16 ? rows - row : 16;
      for (int64_t i = 0; i < count; ++i) {
        VecF sum = (VecF)words[i];
        if (beside) sum += load(beside + (row + i) * deep + d);
        store_some(to + (row + i) * stride + d, sum * scale, lanes_from(d, dim));
      }
    }
  }
}

}  // namespace
}  // namespace msplora::kernels::amx
