#pragma once

// Dropout masks as bits: one bit an element, drawn for whole rows or blocks at a time (DropoutMask in
// kernels.h defines the numbers). Kernels clear dropped lanes and multiply by the scale where it costs least.

#include "kernels/cpu/simd.h"

namespace msplora::kernels::MSPLORA_ISA {

/// The 16-bit numbers of one block of 64 elements lie in memory order in the words of eight counters.
inline constexpr int kMaskBlock = 64;

/// Bit i: numbers[i] >= threshold, for 64 numbers in vectors of 32-bit pairs.
MSPLORA_INLINE uint64_t compare_numbers(const VecL* numbers, uint32_t threshold) {
#if defined(__AVX512BW__)
  const __m512i least = _mm512_set1_epi16(static_cast<int16_t>(threshold));
  const uint64_t low = _mm512_cmpge_epu16_mask((__m512i)numbers[0], least);
  return low | static_cast<uint64_t>(_mm512_cmpge_epu16_mask((__m512i)numbers[1], least)) << 32;
#elif defined(__AVX2__)
  const __m256i least = _mm256_set1_epi16(static_cast<int16_t>(threshold));
  uint64_t bits = 0;
  for (int i = 0; i < 2; ++i) {
    const __m256i a = (__m256i)numbers[2 * i], b = (__m256i)numbers[2 * i + 1];
    const __m256i keep_a = _mm256_cmpeq_epi16(_mm256_max_epu16(a, least), a);
    const __m256i keep_b = _mm256_cmpeq_epi16(_mm256_max_epu16(b, least), b);
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(keep_a, keep_b), 0xD8);
    bits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(bytes))) << (32 * i);
  }
  return bits;
#else
  uint16_t values[kMaskBlock];
  std::memcpy(values, numbers, sizeof(values));
  uint64_t bits = 0;
  for (int i = 0; i < kMaskBlock; ++i) bits |= static_cast<uint64_t>(values[i] >= threshold) << i;
  return bits;
#endif
}

/// Bits of the blocks first .. first + Blocks - 1.
template <int Blocks>
MSPLORA_INLINE void draw_blocks(uint64_t key, uint64_t first, uint32_t threshold, uint64_t* bits) {
  constexpr int kVectors = 8 / kWide;  // vectors of counters in a block
  constexpr int kAll = Blocks * kVectors;
  VecL c0[kAll], c1[kAll], c2[kAll], c3[kAll];
  philox_words<kAll>(key, first * 8, 0, c0, c1, c2, c3);
  for (int b = 0; b < Blocks; ++b) {
    // Words 0 and 1 of the eight counters are the first half of the block, words 2 and 3 the second.
    VecL numbers[2 * kVectors];
    for (int g = 0; g < kVectors; ++g) {
      const int from = b * kVectors + g;
      numbers[g] = (c0[from] & 0xFFFFFFFFu) | (c1[from] << 32);
      numbers[kVectors + g] = (c2[from] & 0xFFFFFFFFu) | (c3[from] << 32);
    }
    bits[b] = compare_numbers(numbers, threshold);
  }
}

/// Bits of `count` blocks from block `first`.
inline void draw_mask(const DropoutMask& mask, uint64_t first, int64_t count, uint64_t* bits) {
  constexpr int kBlocks = kLanes == 16 ? 4 : 1;  // as many as the registers hold: rounds are chains
  const uint32_t threshold = mask.threshold();
  int64_t b = 0;
  for (; b + kBlocks <= count; b += kBlocks)
    draw_blocks<kBlocks>(mask.key, first + static_cast<uint64_t>(b), threshold, bits + b);
  for (; b < count; ++b) draw_blocks<1>(mask.key, first + static_cast<uint64_t>(b), threshold, bits + b);
}

/// Some consecutive elements of a mask; without one, everything is kept.
class MaskBits {
 public:
  MaskBits() = default;
  MaskBits(const uint64_t* words, int64_t first_bit)
      : bytes_(reinterpret_cast<const unsigned char*>(words)), first_(first_bit) {}

  bool active() const { return bytes_ != nullptr; }

  /// The mask without its first `count` elements.
  MaskBits from(int64_t count) const {
    MaskBits rest = *this;
    rest.first_ += count;
    return rest;
  }

  /// The bits of elements i .. i + kLanes - 1.
  MSPLORA_INLINE uint32_t lanes(const MaskBits& mask, int64_t i) {
    const int64_t bit = mask.first_ + i;
    uint32_t word;
    std::memcpy(&word, mask.bytes_ + (bit >> 3), sizeof(word));
    return word >> (bit & 7);
  }

 private:
  const unsigned char* bytes_ = nullptr;
  int64_t first_ = 0;
};

/// Words that elements [first, first + width) need, with room for reads beyond the end.
inline int64_t mask_words(int64_t width) {
  return width / kMaskBlock + 3;
}

/// Draws elements [first, first + width) into `words` (mask_words(width) of them).
inline MaskBits draw_row(const DropoutMask& mask, int64_t first, int64_t width, uint64_t* words) {
  const int64_t block = first / kMaskBlock;
  draw_mask(mask, static_cast<uint64_t>(block), (first + width + kMaskBlock - 1) / kMaskBlock - block, words);
  return {words, first - block * kMaskBlock};
}

/// v where the lane's bit is set, else 0.
MSPLORA_INLINE VecF keep_lanes(VecF v, uint32_t bits) {
#if defined(__AVX512F__)
  return (VecF)_mm512_maskz_mov_ps(static_cast<__mmask16>(bits), (__m512)v);
#else
  VecI lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = 1 << i;
  return select((splat_int(static_cast<int32_t>(bits)) & lane) != 0, v, splat(0.0f));
#endif
}

/// mask(v), unscaled, for elements i .. i + kLanes - 1.
MSPLORA_INLINE VecF keep(VecF v, const MaskBits& mask, int64_t i) {
  return keep_lanes(v, MaskBits::lanes(mask, i));
}

}  // namespace msplora::kernels::MSPLORA_ISA
