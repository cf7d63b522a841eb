// Low-rank products on tiles (AMX). Factors and z are split into two bfloat16 numbers, which stand side by
// side: of eight ranks the larger parts, then the smaller ones; what both give is added in float. x is what
// it is, its dropped numbers zero.
#include "kernels/amx/operands.h"
#include "kernels/cpu/low_rank_blocks.h"
#include "kernels/cpu/transpose_words.h"

namespace msplora::kernels::amx {
namespace {

constexpr int64_t kRanks = 8;  // of a tile
constexpr int64_t kRowTiles = kRowBlock / kRows, kRowSteps = kRowBlock / kInner;
constexpr int kPackedSlot = 0, kZTileSlot = 1;

// 32 numbers of a row from `i` on, dropped ones and those beyond its end zero.
template <bool Masked>
MSPLORA_INLINE __m512i load_numbers(RowView<const Number> x, int64_t row, const MaskBits* masks, int64_t i) {
  __mmask32 valid = first_numbers(x.width - i);
  if (Masked) valid &= MaskBits::lanes(masks[row], i) | MaskBits::lanes(masks[row], i + kLanes) << kLanes;
  return _mm512_maskz_loadu_epi16(valid, x.row(row) + i);
}

// The left operand of outer products: of eight ranks z as rows, parts as above, 32 rows of x a step.
void pack_z(const float* z, int64_t ldz, int64_t rows, int64_t ranks, Number* to) {
  for (int64_t step = 0; step < kRowSteps; ++step, to += kTileInner) {
    for (int64_t j = 0; j < kRanks; ++j) {
      alignas(64) float column[kInner] = {};
      for (int64_t t = 0; j < ranks && t < kInner && step * kInner + t < rows; ++t)
        column[t] = z[(step * kInner + t) * ldz + j];
      VecF low = load(column), high = load(column + kLanes);
      _mm512_store_si512(to + j * kInner, take_part(low, high));
      _mm512_store_si512(to + (kRanks + j) * kInner, take_part(low, high));
    }
  }
}

// 32 columns of x from `column` on as right operands: pairs of rows, 16 columns a tile, two tiles a step.
template <bool Masked>
void pack_columns(RowView<const Number> x, int64_t rows, const MaskBits* masks, int64_t column, Number* to) {
  alignas(64) uint16_t order[2][32];
  for (uint16_t i = 0; i < 32; ++i) {
    order[0][i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    order[1][i] = static_cast<uint16_t>(order[0][i] + 16);
  }
  const __m512i first = _mm512_load_si512(order[0]), second = _mm512_load_si512(order[1]);
  for (int64_t pair = 0; pair < kRowBlock / 2; ++pair) {
    const int64_t row = 2 * pair;
    const __m512i even = row < rows ? load_numbers<Masked>(x, row, masks, column) : _mm512_setzero_si512();
    const __m512i odd =
        row + 1 < rows ? load_numbers<Masked>(x, row + 1, masks, column) : _mm512_setzero_si512();
    Number* const line = to + pair / kRows * 2 * kTileInner + pair % kRows * kInner;
    _mm512_store_si512(line, _mm512_permutex2var_epi16(even, first, odd));
    _mm512_store_si512(line + kTileInner, _mm512_permutex2var_epi16(even, second, odd));
  }
}

// sums[16 Tiles, 16] = x b over `steps`.
template <int Tiles>
void multiply_rows(const Number* x, const Number* b, int64_t steps, float* sums) {
  const int64_t next = steps * kTileInner;
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  for (int64_t s = 0; s < steps; ++s, x += kTileInner, b += kTileInner) {
    load_tile<5>(b, kRowBytes);
    load_tile<4>(x, kRowBytes);
    multiply_tiles<0, 4, 5>();
    if constexpr (Tiles > 1) {
      load_tile<6>(x + next, kRowBytes);
      multiply_tiles<1, 6, 5>();
    }
    if constexpr (Tiles > 2) {
      load_tile<4>(x + 2 * next, kRowBytes);
      multiply_tiles<2, 4, 5>();
    }
    if constexpr (Tiles > 3) {
      load_tile<6>(x + 3 * next, kRowBytes);
      multiply_tiles<3, 6, 5>();
    }
  }
  store_tile<0>(sums, kRowBytes);
  if constexpr (Tiles > 1) store_tile<1>(sums + kTileSums, kRowBytes);
  if constexpr (Tiles > 2) store_tile<2>(sums + 2 * kTileSums, kRowBytes);
  if constexpr (Tiles > 3) store_tile<3>(sums + 3 * kTileSums, kRowBytes);
}

void multiply_rows_of(int64_t tiles, const Number* x, const Number* b, int64_t steps, float* sums) {
  static_assert(kRowTiles == 4);
  if (tiles == 1) return multiply_rows<1>(x, b, steps, sums);
  if (tiles == 2) return multiply_rows<2>(x, b, steps, sums);
  if (tiles == 3) return multiply_rows<3>(x, b, steps, sums);
  multiply_rows<4>(x, b, steps, sums);
}

// Two tiles: the ranks of `z` by 32 columns.
void multiply_columns(const Number* z, const Number* x, float (&sums)[2][kTileSums]) {
  zero_tile<0>(), zero_tile<1>();
  for (int64_t step = 0; step < kRowSteps; ++step) {
    load_tile<4>(z + step * kTileInner, kRowBytes);
    load_tile<5>(x + step * 2 * kTileInner, kRowBytes);
    multiply_tiles<0, 4, 5>();
    load_tile<6>(x + (step * 2 + 1) * kTileInner, kRowBytes);
    multiply_tiles<1, 4, 6>();
  }
  store_tile<0>(sums[0], kRowBytes);
  store_tile<1>(sums[1], kRowBytes);
}

struct TileProducts {
  using Session = Tiles;

  static int64_t steps(int64_t wide) { return ceil_div(wide, kInner); }
  static int64_t prepared_size(int64_t rank, int64_t wide) {
    return ceil_div(rank, kRanks) * steps(wide) * kTileInner / 2;
  }

  // Right operands: of eight ranks, step after step.
  static void prepare(const float* padded, int64_t rank, int64_t wide, float* to) {
    auto* tile = reinterpret_cast<Number*>(to);
    for (int64_t first = 0; first < rank; first += kRanks) {
      for (int64_t i = 0; i < wide; i += kInner, tile += kTileInner) {
        __m512i rows[kRows];
        for (int64_t j = 0; j < kRanks; ++j) {
          const float* const from = padded + (first + j) * wide + i;
          const bool is_there = first + j < rank;
          VecF low = is_there ? load(from) : splat(0.0f);
          VecF high = is_there && i + kLanes < wide ? load(from + kLanes) : splat(0.0f);
          rows[j] = take_part(low, high);
          rows[kRanks + j] = take_part(low, high);
        }
        transpose_words(rows);
        for (int64_t pair = 0; pair < kRows; ++pair) _mm512_store_si512(tile + pair * kInner, rows[pair]);
      }
    }
  }

  template <bool Masked, typename T>
  static void dots(RowView<const T> x, int64_t rows, const MaskBits* masks, const FactorRows& factors,
                   int64_t begin, int64_t end, float* c, int64_t ldc) {
    const int64_t count = steps(factors.wide), tiles = ceil_div(rows, kRows);
    auto* const packed =
        reinterpret_cast<Number*>(thread_scratch(kPackedSlot, kRowTiles * count * kTileInner / 2));
    for (int64_t t = 0; t < tiles * kRows; ++t) {
      Number* to = packed + t / kRows * count * kTileInner + t % kRows * kInner;
      for (int64_t i = 0; i < count * kInner; i += kInner, to += kTileInner) {
        const bool is_there = t < rows && i < x.width;
        _mm512_store_si512(to, is_there ? load_numbers<Masked>(x, t, masks, i) : _mm512_setzero_si512());
      }
    }
    for (int64_t group = begin / kRanks; group < ceil_div(end, kRanks); ++group) {
      alignas(64) float sums[kRowTiles * kTileSums];
      const auto* const b = reinterpret_cast<const Number*>(factors.prepared) + group * count * kTileInner;
      multiply_rows_of(tiles, packed, b, count, sums);
      const int64_t base = group * kRanks, first = begin > base ? begin : base;
      const int64_t last = end < base + kRanks ? end : base + kRanks;
      for (int64_t t = 0; t < rows; ++t) {
        const float* const sum = sums + t * kSums;
        for (int64_t r = first; r < last; ++r) c[t * ldc + r] = sum[r - base] + sum[kRanks + r - base];
      }
    }
  }

  template <bool Masked, typename T>
  static void add_outer(RowView<const T> x, int64_t rows, const MaskBits* masks, const float* z, int64_t ldz,
                        int64_t count, float* sums, int64_t wide) {
    const int64_t groups = ceil_div(count, kRanks), of_group = kRowSteps * kTileInner;
    auto* const left = reinterpret_cast<Number*>(thread_scratch(kZTileSlot, groups * of_group / 2));
    for (int64_t g = 0; g < groups; ++g)
      pack_z(z + g * kRanks, ldz, rows, count - g * kRanks, left + g * of_group);
    for (int64_t column = 0; column < x.width; column += kInner) {
      alignas(64) Number right[kRowSteps * 2 * kTileInner];
      pack_columns<Masked>(x, rows, masks, column, right);
      for (int64_t g = 0; g < groups; ++g) {
        alignas(64) float formed[2][kTileSums];
        multiply_columns(left + g * of_group, right, formed);
        for (int64_t j = 0; j < kRanks && g * kRanks + j < count; ++j) {
          float* const to = sums + (g * kRanks + j) * wide + column;
          for (int half = 0; half < 2 && column + half * kLanes < wide; ++half) {
            const VecF sum = load(formed[half] + j * kSums) + load(formed[half] + (kRanks + j) * kSums);
            store(to + half * kLanes, load(to + half * kLanes) + sum);
          }
        }
      }
    }
  }
};

}  // namespace

template <>
void low_rank(const LowRank<Bfloat16>& op) {
  run_low_rank<TileProducts>(op);
}
template <>
void low_rank_backward(const LowRankBackward<Bfloat16>& op) {
  run_low_rank_backward<TileProducts>(op);
}

}  // namespace msplora::kernels::amx
