#pragma once

// Operands of packed products in the order of tiles: numbers, or the parts of floats (cpu/parts.h).
#include "kernels/amx/tiles.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/gemm_updates.h"
#include "kernels/cpu/parts.h"

namespace msplora::kernels::amx {
namespace {

/// Numbers of a panel in a step, of one part.
constexpr int64_t kStepOfPanel = kInner * kPanel;

/// Rows of x, `inner` numbers of each from `first` on, as tiles: all steps of 16 rows, then of the next; the
/// parts of a step lie together. Rows and numbers that are not there are zero.
constexpr int64_t kAheadOfRows = 12 << 10;  // bytes

template <int kParts, typename T>
void pack_rows(const T* x, int64_t stride, int64_t rows, int64_t first, int64_t inner, Number* to) {
  const int64_t steps = ceil_div(inner, kInner);
  for (int64_t row = 0; row < ceil_div(rows, kRows) * kRows; ++row) {
    Number* tile = to + row / kRows * steps * kParts * kTileInner + row % kRows * kInner;
    for (int64_t s = 0; s < steps; ++s, tile += kParts * kTileInner) {
      if (row < rows) {
        const T* const from = x + row * stride + first + s * kInner;
        for (int64_t i = 0; i < kInner; i += 64 / static_cast<int64_t>(sizeof(T)))
          __builtin_prefetch(reinterpret_cast<const char*>(from + i) + kAheadOfRows, 0, 2);
        __m512i parts[kParts];
        load_parts(from, first_numbers(inner - s * kInner), parts);
        for (int part = 0; part < kParts; ++part) _mm512_store_si512(tile + part * kTileInner, parts[part]);
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
  using Meet = Meeting<kSplit>;
  static constexpr int64_t kPlaces = Meet::kCount;

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
          tile[k / kInner * kTileInner + k % kInner] = parts[Meet::kLeft[place]];
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
        to[k / 2 * kPanel * 2 + j * 2 + k % 2] = parts[Meet::kRight[place]];
      }
    }
  }
};

}  // namespace
}  // namespace msplora::kernels::amx
