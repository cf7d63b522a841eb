#pragma once

// Operands of packed products in the order of tiles. A float is the sum of two or three numbers in bfloat16,
// its parts, each the rounded rest of those before; a product of two floats is that of their larger parts,
// small ones first.
#include "kernels/amx/tiles.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/gemm_updates.h"

namespace msplora::kernels::amx {
namespace {

using Number = Bfloat16;

/// Numbers of a panel in a step, of one part.
constexpr int64_t kStepOfPanel = kInner * kPanel;

/// Which parts of the left and of the right operand meet. With two parts the error is 2^-16, with three that
/// of float.
template <int kParts>
struct Products;
template <>
struct Products<1> {
  static constexpr int kCount = 1, kLeft[] = {0}, kRight[] = {0};
};
template <>
struct Products<2> {
  static constexpr int kCount = 3, kLeft[] = {1, 0, 0}, kRight[] = {0, 1, 0};
};
template <>
struct Products<3> {
  static constexpr int kCount = 6, kLeft[] = {2, 0, 1, 1, 0, 0}, kRight[] = {0, 2, 1, 0, 1, 0};
};

template <int kParts>
MSPLORA_INLINE void split(float value, Number (&parts)[kParts]) {
  for (int part = 0; part < kParts; ++part) {
    set(parts[part], value);
    value -= to_float(parts[part]);
  }
}

// The next part of 32 floats, which keep the rest.
MSPLORA_INLINE __m512i take_part(VecF& low, VecF& high) {
  const __m512i numbers = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  const auto floats = [](__m256i half) { return (VecF)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16); };
  low -= floats(_mm512_castsi512_si256(numbers));
  high -= floats(_mm512_extracti64x4_epi64(numbers, 1));
  return numbers;
}

// 32 numbers from `from` on, of which `count` are there, to a row of each part's tile.
template <int kParts>
MSPLORA_INLINE void pack_step(const Bfloat16* from, int64_t count, Number* to) {
  static_assert(kParts == 1);
  _mm512_store_si512(to, _mm512_maskz_loadu_epi16(first_numbers(count), from));
}
template <int kParts>
MSPLORA_INLINE void pack_step(const float* from, int64_t count, Number* to) {
  const int64_t above = count - kLanes;
  VecF low = load_some(from, count >= kLanes ? kLanes : static_cast<int>(count));
  VecF high =
      above > 0 ? load_some(from + kLanes, above >= kLanes ? kLanes : static_cast<int>(above)) : splat(0.0f);
  for (int part = 0; part < kParts; ++part, to += kTileInner) _mm512_store_si512(to, take_part(low, high));
}

/// Rows of x, `inner` numbers of each from `first` on, as tiles: all steps of 16 rows, then of the next; the
/// parts of a step lie together. Rows and numbers that are not there are zero.
template <int kParts, typename T>
void pack_rows(const T* x, int64_t stride, int64_t rows, int64_t first, int64_t inner, Number* to) {
  const int64_t steps = ceil_div(inner, kInner);
  for (int64_t row = 0; row < ceil_div(rows, kRows) * kRows; ++row) {
    Number* tile = to + row / kRows * steps * kParts * kTileInner + row % kRows * kInner;
    for (int64_t s = 0; s < steps; ++s, tile += kParts * kTileInner) {
      if (row < rows) {
        pack_step<kParts>(x + row * stride + first + s * kInner, inner - s * kInner, tile);
      } else {
        for (int part = 0; part < kParts; ++part) std::memset(tile + part * kTileInner, 0, kRowBytes);
      }
    }
  }
}

// Updates are split too, into two parts at least: rank r takes as many places of the inner dimension as parts
// meet.
template <int kParts>
struct UpdateForm {
  static constexpr int kSplit = kParts > 2 ? kParts : 2;
  using Meeting = Products<kSplit>;
  static constexpr int64_t kPlaces = Meeting::kCount;

  static int64_t steps(int64_t rank) { return ceil_div(kPlaces * rank, kInner); }

  /// Rows of z, [rows, rank], as tiles.
  static void pack_z(const float* z, int64_t rank, int64_t rows, Number* to) {
    const int64_t count = steps(rank);
    std::memset(to, 0, sizeof(Number) * static_cast<size_t>(ceil_div(rows, kRows) * count * kTileInner));
    for (int64_t row = 0; row < rows; ++row) {
      Number* const tile = to + row / kRows * count * kTileInner + row % kRows * kInner;
      for (int64_t r = 0; r < rank; ++r) {
        Number parts[kSplit];
        split(z[row * rank + r], parts);
        for (int64_t place = 0; place < kPlaces; ++place) {
          const int64_t k = kPlaces * r + place;
          tile[k / kInner * kTileInner + k % kInner] = parts[Meeting::kLeft[place]];
        }
      }
    }
  }

  /// All of U; panel p begins at p * steps(rank) * kStepOfPanel.
  template <typename T>
  static const Number* pack_up(const PackedGemm<T>& op, int64_t panels, int slot, int tile_slot) {
    const float* up = pack_updates(op, panels, slot);
    const int64_t size = steps(op.rank) * kStepOfPanel;
    auto* const to = reinterpret_cast<Number*>(thread_scratch(tile_slot, panels * size / 2));
    std::memset(to, 0, sizeof(Number) * static_cast<size_t>(panels * size));
    for (int64_t panel = 0; panel < panels; ++panel) {
      const PanelRanks ranks = ranks_of(op, panel);
      for (int64_t r = ranks.begin; r < ranks.end; ++r)
        pack_rank(up + panel * op.rank * kPanel + (r - ranks.begin) * kPanel, r, to + panel * size);
    }
    return to;
  }

 private:
  static void pack_rank(const float* up, int64_t r, Number* to) {
    for (int64_t j = 0; j < kPanel; ++j) {
      Number parts[kSplit];
      split(up[j], parts);
      for (int64_t place = 0; place < kPlaces; ++place) {
        const int64_t k = kPlaces * r + place;
        to[k / 2 * kPanel * 2 + j * 2 + k % 2] = parts[Meeting::kRight[place]];
      }
    }
  }
};

}  // namespace
}  // namespace msplora::kernels::amx
