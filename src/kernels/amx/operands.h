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

constexpr int64_t kAheadOfRows = 12 << 10;  // bytes

/// Rows of x, a range of the numbers of each, brought into the order of tiles, some at a time: all steps of
/// 16 rows, then of the next; the parts of a step lie together. Rows and numbers that are not there are zero.
template <int kParts, typename T>
class Packing {
 public:
  Packing() = default;
  /// x: number 0 of the range in the first row.
  Packing(const T* x, int64_t stride, int64_t rows, int64_t inner, Number* to)
      : x_(x), to_(to), stride_(stride), inner_(inner), rows_(rows), left_(rows * steps()) {
    begin_row();
  }

  /// Steps of rows that are still to come.
  int64_t left() const { return left_; }
  /// One of them.
  MSPLORA_INLINE void some(Packing& packing) {
    if (packing.left_ == 0) return;
    const T* const from = packing.from_;
    fetch_lines<0, 2>(from + kAheadOfRows / static_cast<int64_t>(sizeof(T)), kInner);
    __m512i parts[kParts];
    load_parts(from, first_numbers(packing.left_of_row_), parts);
    for (int part = 0; part < kParts; ++part)
      _mm512_store_si512(packing.tile_ + part * kTileInner, parts[part]);
    packing.from_ += kInner, packing.tile_ += kParts * kTileInner;
    packing.left_of_row_ -= kInner, packing.left_ -= 1;
    if (packing.left_of_row_ <= 0) ++packing.row_, packing.begin_row();
  }
  void rest() {
    Packing packing = *this;  // in registers
    while (packing.left_ > 0) some(packing);
    *this = packing;
    for (; row_ < ceil_div(rows_, kRows) * kRows; ++row_, begin_row())
      for (int64_t i = 0; i < steps() * kParts; ++i) std::memset(tile_ + i * kTileInner, 0, kRowBytes);
  }

 private:
  int64_t steps() const { return ceil_div(inner_, kInner); }
  void begin_row() {
    from_ = x_ + row_ * stride_;
    tile_ = to_ + row_ / kRows * steps() * kParts * kTileInner + row_ % kRows * kInner;
    left_of_row_ = inner_;
  }

  const T* x_ = nullptr;
  Number* to_ = nullptr;
  int64_t stride_ = 0, inner_ = 0, rows_ = 0, row_ = 0;
  int64_t left_ = 0, left_of_row_ = 0;
  const T* from_ = nullptr;
  Number* tile_ = nullptr;
};

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
    for (int64_t row = 0; row < ceil_div(rows, kRows) * kRows; ++row) {
      Number* const tile = to + row / kRows * count * kTileInner + row % kRows * kInner;
      for (int64_t first = 0, step = 0; first < rank; first += kInner) {
        const int64_t left = row < rows ? rank - first : 0;
        VecF low = (VecF)_mm512_maskz_loadu_ps(first_lanes(left), z + row * rank + first);
        VecF high = (VecF)_mm512_maskz_loadu_ps(first_lanes(left - kLanes), z + row * rank + first + kLanes);
        __m512i parts[kSplit];
        for (int part = 0; part < kSplit; ++part) parts[part] = take_part(low, high);
        for (int64_t line = 0; line < kPlaces && step < count; ++line, ++step)
          _mm512_store_si512(tile + step * kTileInner, places_of(parts, line));
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
  // Where the numbers of 32 ranks' places come from, line by line: among those of the first two parts, or of
  // the third.
  struct Order {
    alignas(64) uint16_t at[kPlaces][kInner] = {};
    __mmask32 is_third[kPlaces] = {};

    constexpr Order() {
      for (int64_t k = 0; k < kPlaces * kInner; ++k) {
        const int part = Meet::kLeft[k % kPlaces];
        const int64_t line = k / kInner, i = k % kInner;
        at[line][i] = static_cast<uint16_t>(part % 2 * kInner + k / kPlaces);
        if (part == 2) is_third[line] |= 1u << i;
      }
    }
  };
  static __m512i places_of(const __m512i (&parts)[kSplit], int64_t line) {
    static constexpr Order kOrder;
    const __m512i order = _mm512_load_si512(kOrder.at[line]);
    const __m512i numbers = _mm512_permutex2var_epi16(parts[0], order, parts[1]);
    if constexpr (kSplit == 2) return numbers;
    return _mm512_mask_permutexvar_epi16(numbers, kOrder.is_third[line], order, parts[kSplit - 1]);
  }

  static void pack_rank(const float* up, int64_t r, Number* to) {
    static_assert(kPanel == kInner);
    VecF low = load(up), high = load(up + kLanes);
    __m512i parts[kSplit];
    for (int part = 0; part < kSplit; ++part) parts[part] = take_part(low, high);
    for (int64_t place = 0; place < kPlaces; ++place) {
      const int64_t k = kPlaces * r + place;
      const __m512i numbers = parts[Meet::kRight[place]];
      const __mmask32 columns = k % 2 == 0 ? 0x55555555u : 0xAAAAAAAAu;
      for (int half = 0; half < 2; ++half) {
        const __m256i of_half =
            half == 0 ? _mm512_castsi512_si256(numbers) : _mm512_extracti64x4_epi64(numbers, 1);
        const __m512i words = _mm512_cvtepu16_epi32(of_half);
        _mm512_mask_storeu_epi16(to + k / 2 * kPanel * 2 + half * kInner, columns,
                                 _mm512_or_si512(words, _mm512_slli_epi32(words, 16)));
      }
    }
  }
};

}  // namespace
}  // namespace msplora::kernels::amx
