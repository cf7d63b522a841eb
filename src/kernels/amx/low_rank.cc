// Low-rank products on tiles (AMX). Factors and z are split into parts (cpu/parts.h), which stand side by
// side: of as many ranks as a tile has room for the largest parts, then the next ones; what they give is
// added in float. Numbers of x are what they are, floats are split, too; dropped ones are zero.
#include "kernels/amx/operands.h"
#include "kernels/amx/vector_kernels.h"
#include "kernels/cpu/low_rank_blocks.h"
#include "kernels/cpu/transpose_words.h"

namespace msplora::kernels::amx {
namespace {

constexpr int64_t kRowTiles = kRowBlock / kRows, kRowSteps = kRowBlock / kInner;
constexpr int kPackedSlot = 0, kZTileSlot = 1;
constexpr int64_t kAheadRows = 8;  // which dots bring: rows of one output among several are no stream
// Of a row of x in memory, that outer products take at once: a line at a time comes half as fast.
constexpr int64_t kChunkBytes = 256;

// 32 numbers of a row from `i` on, dropped ones and those beyond its end zero.
template <bool Masked, int kParts, typename T>
MSPLORA_INLINE void load_numbers(RowView<const T> x, int64_t row, const MaskBits* masks, int64_t i,
                                 __m512i (&parts)[kParts]) {
  __mmask32 valid = first_numbers(x.width - i);
  if (Masked) valid &= MaskBits::lanes(masks[row], i) | MaskBits::lanes(masks[row], i + kLanes) << kLanes;
  load_parts(x.row(row) + i, valid, parts);
}

template <int kParts>
constexpr int64_t kRightNumbers = kRowSteps * 2 * kParts* kTileInner;

// Columns of x from `column` on, 32 for each of kRights right operands: pairs of rows, 16 columns a tile, two
// tiles a step and part.
template <int kParts, bool Masked, int64_t kRights, typename T>
void pack_columns(RowView<const T> x, int64_t rows, const MaskBits* masks, int64_t column,
                  Number (&to)[kRights][kRightNumbers<kParts>]) {
  alignas(64) uint16_t order[2][32];
  for (uint16_t i = 0; i < 32; ++i) {
    order[0][i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    order[1][i] = static_cast<uint16_t>(order[0][i] + 16);
  }
  const __m512i first = _mm512_load_si512(order[0]), second = _mm512_load_si512(order[1]);
  for (int64_t pair = 0; pair < kRowBlock / 2; ++pair) {
    for (int64_t i = 0; i < 2 && 2 * pair + i < rows; ++i)
      fetch_lines<0, 2>(x.row(2 * pair + i) + column + kRights * kInner, kRights * kInner);
    for (int64_t right = 0; right < kRights; ++right) {
      __m512i row[2][kParts] = {};
      for (int64_t i = 0; i < 2; ++i)
        if (2 * pair + i < rows)
          load_numbers<Masked>(x, 2 * pair + i, masks, column + right * kInner, row[i]);
      Number* const line = to[right] + pair / kRows * 2 * kParts * kTileInner + pair % kRows * kInner;
      for (int part = 0; part < kParts; ++part) {
        Number* const tile = line + part * 2 * kTileInner;
        _mm512_store_si512(tile, _mm512_permutex2var_epi16(row[0][part], first, row[1][part]));
        _mm512_store_si512(tile + kTileInner, _mm512_permutex2var_epi16(row[0][part], second, row[1][part]));
      }
    }
  }
}

// sums[16 Tiles, 16] = x b over `steps`, each of kParts tiles of x and one of b.
template <int kParts, int Tiles>
void multiply_rows(const Number* x, const Number* b, int64_t steps, float* sums) {
  const int64_t next = steps * kParts * kTileInner;
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  for (int64_t s = 0; s < steps; ++s, b += kTileInner) {
    load_tile<5>(b, kRowBytes);
    for (int part = 0; part < kParts; ++part, x += kTileInner) {
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
  }
  store_tile<0>(sums, kRowBytes);
  if constexpr (Tiles > 1) store_tile<1>(sums + kTileSums, kRowBytes);
  if constexpr (Tiles > 2) store_tile<2>(sums + 2 * kTileSums, kRowBytes);
  if constexpr (Tiles > 3) store_tile<3>(sums + 3 * kTileSums, kRowBytes);
}

template <int kParts>
void multiply_rows_of(int64_t tiles, const Number* x, const Number* b, int64_t steps, float* sums) {
  static_assert(kRowTiles == 4);
  if (tiles == 1) return multiply_rows<kParts, 1>(x, b, steps, sums);
  if (tiles == 2) return multiply_rows<kParts, 2>(x, b, steps, sums);
  if (tiles == 3) return multiply_rows<kParts, 3>(x, b, steps, sums);
  multiply_rows<kParts, 4>(x, b, steps, sums);
}

// Two tiles: the ranks of `z` by 32 columns.
template <int kParts>
void multiply_columns(const Number* z, const Number* x, float (&sums)[2][kTileSums]) {
  zero_tile<0>(), zero_tile<1>();
  for (int64_t step = 0; step < kRowSteps; ++step, z += kTileInner) {
    load_tile<4>(z, kRowBytes);
    for (int part = 0; part < kParts; ++part, x += 2 * kTileInner) {
      load_tile<5>(x, kRowBytes);
      multiply_tiles<0, 4, 5>();
      load_tile<6>(x + kTileInner, kRowBytes);
      multiply_tiles<1, 4, 6>();
    }
  }
  store_tile<0>(sums[0], kRowBytes);
  store_tile<1>(sums[1], kRowBytes);
}

// Of x in kParts.
template <int kParts>
struct TileProducts {
  using Session = Tiles;
  static constexpr int64_t kSplit = kParts > 2 ? kParts : 2;  // of factors and z
  static constexpr int64_t kRanks = kSums / kSplit;           // of a tile

  static int64_t steps(int64_t wide) { return ceil_div(wide, kInner); }
  static int64_t prepared_size(int64_t rank, int64_t wide) {
    return ceil_div(rank, kRanks) * steps(wide) * kTileInner / 2;
  }

  // Right operands: of kRanks ranks, step after step.
  static void prepare(const float* padded, int64_t rank, int64_t wide, float* to) {
    auto* tile = reinterpret_cast<Number*>(to);
    for (int64_t first = 0; first < rank; first += kRanks) {
      for (int64_t i = 0; i < wide; i += kInner, tile += kTileInner) {
        __m512i rows[kRows] = {};
        for (int64_t j = 0; j < kRanks && first + j < rank; ++j) {
          const float* const from = padded + (first + j) * wide + i;
          VecF low = load(from);
          VecF high = i + kLanes < wide ? load(from + kLanes) : splat(0.0f);
          for (int64_t part = 0; part < kSplit; ++part) rows[part * kRanks + j] = take_part(low, high);
        }
        transpose_words(rows);
        for (int64_t pair = 0; pair < kRows; ++pair) _mm512_store_si512(tile + pair * kInner, rows[pair]);
      }
    }
  }

  template <bool Masked, typename T>
  static void dots(RowView<const T> x, int64_t rows, const MaskBits* masks, const FactorRows& factors,
                   int64_t begin, int64_t end, float* c, int64_t ldc) {
    const int64_t count = steps(factors.wide), tiles = ceil_div(rows, kRows), of_tile = count * kParts;
    auto* const packed =
        reinterpret_cast<Number*>(thread_scratch(kPackedSlot, kRowTiles * of_tile * kTileInner / 2));
    for (int64_t t = 0; t < tiles * kRows; ++t) {
      Number* to = packed + t / kRows * of_tile * kTileInner + t % kRows * kInner;
      for (int64_t i = 0; i < count * kInner; i += kInner) {
        __m512i parts[kParts] = {};
        if (t < rows && i < x.width) {
          fetch_lines<0, 2>(x.row(t + kAheadRows) + i, kInner);
          load_numbers<Masked>(x, t, masks, i, parts);
        }
        for (int part = 0; part < kParts; ++part, to += kTileInner) _mm512_store_si512(to, parts[part]);
      }
    }
    for (int64_t group = begin / kRanks; group < ceil_div(end, kRanks); ++group) {
      alignas(64) float sums[kRowTiles * kTileSums];
      const auto* const b = reinterpret_cast<const Number*>(factors.prepared) + group * count * kTileInner;
      multiply_rows_of<kParts>(tiles, packed, b, count, sums);
      const int64_t base = group * kRanks, first = begin > base ? begin : base;
      const int64_t last = end < base + kRanks ? end : base + kRanks;
      for (int64_t t = 0; t < rows; ++t) {
        for (int64_t r = first; r < last; ++r) c[t * ldc + r] = sum_of_parts(sums + t * kSums + r - base);
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
    constexpr int64_t kRights = kChunkBytes / static_cast<int64_t>(sizeof(T)) / kInner;
    for (int64_t chunk = 0; chunk < x.width; chunk += kRights * kInner) {
      alignas(64) Number right[kRights][kRightNumbers<kParts>];
      pack_columns<kParts, Masked>(x, rows, masks, chunk, right);
      for (int64_t i = 0; i < kRights && chunk + i * kInner < x.width; ++i)
        for (int64_t g = 0; g < groups; ++g)
          add_columns(left + g * of_group, right[i], count - g * kRanks, chunk + i * kInner,
                      sums + g * kRanks * wide, wide);
    }
  }

 private:
  // Of at most kRanks ranks and 32 columns.
  static void add_columns(const Number* z, const Number* x, int64_t ranks, int64_t column, float* sums,
                          int64_t wide) {
    alignas(64) float formed[2][kTileSums];
    multiply_columns<kParts>(z, x, formed);
    for (int64_t j = 0; j < kRanks && j < ranks; ++j) {
      float* const to = sums + j * wide + column;
      for (int half = 0; half < 2 && column + half * kLanes < wide; ++half)
        store(to + half * kLanes, load(to + half * kLanes) + rows_of_parts(formed[half] + j * kSums));
    }
  }
  static float sum_of_parts(const float* sum) {
    float total = sum[(kSplit - 1) * kRanks];
    for (int64_t part = kSplit - 2; part >= 0; --part) total += sum[part * kRanks];
    return total;
  }
  static VecF rows_of_parts(const float* row) {
    VecF total = load(row + (kSplit - 1) * kRanks * kSums);
    for (int64_t part = kSplit - 2; part >= 0; --part) total += load(row + part * kRanks * kSums);
    return total;
  }

  // The left operand of outer products: of kRanks ranks z as rows, parts as above, 32 rows of x a step.
  static void pack_z(const float* z, int64_t ldz, int64_t rows, int64_t ranks, Number* to) {
    for (int64_t step = 0; step < kRowSteps; ++step, to += kTileInner) {
      std::memset(to, 0, sizeof(Number) * kTileInner);
      for (int64_t j = 0; j < kRanks && j < ranks; ++j) {
        alignas(64) float column[kInner] = {};
        for (int64_t t = 0; t < kInner && step * kInner + t < rows; ++t)
          column[t] = z[(step * kInner + t) * ldz + j];
        VecF low = load(column), high = load(column + kLanes);
        for (int64_t part = 0; part < kSplit; ++part)
          _mm512_store_si512(to + (part * kRanks + j) * kInner, take_part(low, high));
      }
    }
  }
};

}  // namespace

template <>
void low_rank(const LowRank<Bfloat16>& op) {
  run_low_rank<TileProducts<1>>(op);
}
template <>
void low_rank_backward(const LowRankBackward<Bfloat16>& op) {
  run_low_rank_backward<TileProducts<1>>(op);
}

template <>
void low_rank(const LowRank<float>& op) {
  in_precision(
      op.precision, [&] { avx512bf16::low_rank(op); },
      [&]<int kParts> { run_low_rank<TileProducts<kParts>>(op); });
}
template <>
void low_rank_backward(const LowRankBackward<float>& op) {
  in_precision(
      op.forward.precision, [&] { avx512bf16::low_rank_backward(op); },
      [&]<int kParts> { run_low_rank_backward<TileProducts<kParts>>(op); });
}

}  // namespace msplora::kernels::amx
