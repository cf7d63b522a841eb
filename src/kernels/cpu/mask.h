#pragma once

// Dropout masks as bits: one bit an element, drawn for whole rows or blocks at a time (DropoutMask in
// kernels.h defines the numbers). Kernels clear dropped lanes and multiply by the scale where it costs least.

#include "kernels/cpu/simd.h"
#include "msplora/core/random.h"

namespace msplora::kernels::MSPLORA_ISA {

/// A block of 64 elements: the 16-bit numbers of eight counters.
inline constexpr int kMaskBlock = 64;

/// Keys of the rounds of ARS.
struct RoundKey {
  uint64_t low, high;

  void next() {
    low += 0x9E3779B97F4A7C15ull;
    high += 0xBB67AE8584CAA73Bull;
  }
};

/// Bits of the blocks first .. first + Blocks - 1.
#if defined(__VAES__) && defined(__AVX512BW__)
template <int Blocks>
MSPLORA_INLINE void draw_blocks(uint64_t key, uint64_t first, uint32_t threshold, uint64_t* bits) {
  constexpr int kVectors = 2 * Blocks;  // of four counters
  constexpr __mmask8 kLow = 0x55;
  const auto both = [](RoundKey round) {
    return _mm512_mask_set1_epi64(_mm512_set1_epi64(static_cast<int64_t>(round.high)), kLow,
                                  static_cast<int64_t>(round.low));
  };
  __m512i keys = both({key, ~key});
  RoundKey zero{0, 0};
  zero.next();
  const __m512i step = both(zero), four = _mm512_maskz_set1_epi64(kLow, 4);
  __m512i counters = _mm512_add_epi64(_mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0),
                                      _mm512_maskz_set1_epi64(kLow, static_cast<int64_t>(8 * first)));
  __m512i v[kVectors];
  for (int g = 0; g < kVectors; ++g, counters = _mm512_add_epi64(counters, four))
    v[g] = _mm512_xor_si512(counters, keys);
#pragma GCC unroll 4
  for (int r = 1; r < kMaskRounds; ++r) {
    keys = _mm512_add_epi64(keys, step);
    for (int g = 0; g < kVectors; ++g) v[g] = _mm512_aesenc_epi128(v[g], keys);
  }
  keys = _mm512_add_epi64(keys, step);
  const __m512i least = _mm512_set1_epi16(static_cast<int16_t>(threshold));
  for (int g = 0; g < kVectors; ++g) v[g] = _mm512_aesenclast_epi128(v[g], keys);
  for (int g = 0; g < kVectors; ++g) {
    const uint32_t half = _mm512_cmpge_epu16_mask(v[g], least);
    std::memcpy(reinterpret_cast<unsigned char*>(bits) + 4 * g, &half, sizeof(half));
  }
}
#elif defined(__AES__) && defined(__AVX__)
template <int Blocks>
MSPLORA_INLINE void draw_blocks(uint64_t key, uint64_t first, uint32_t threshold, uint64_t* bits) {
  const __m128i least = _mm_set1_epi16(static_cast<int16_t>(threshold));
  for (int b = 0; b < Blocks; ++b) {
    RoundKey round{key, ~key};
    const auto keys = [&] {
      return _mm_set_epi64x(static_cast<int64_t>(round.high), static_cast<int64_t>(round.low));
    };
    const auto begin = static_cast<int64_t>(8 * (first + static_cast<uint64_t>(b)));
    __m128i v[8];
    for (int g = 0; g < 8; ++g) v[g] = _mm_xor_si128(_mm_set_epi64x(0, begin + g), keys());
    for (int r = 1; r < kMaskRounds; ++r) {
      round.next();
      for (int g = 0; g < 8; ++g) v[g] = _mm_aesenc_si128(v[g], keys());
    }
    round.next();
    for (int g = 0; g < 8; ++g) {
      v[g] = _mm_aesenclast_si128(v[g], keys());
      v[g] = _mm_cmpeq_epi16(_mm_max_epu16(v[g], least), v[g]);
    }
    uint64_t kept = 0;
    for (int g = 0; g < 8; g += 2) {
      const auto bytes = static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(v[g], v[g + 1])));
      kept |= static_cast<uint64_t>(bytes) << (8 * g);
    }
    bits[b] = kept;
  }
}
#else
template <int Blocks>
inline void draw_blocks(uint64_t key, uint64_t first, uint32_t threshold, uint64_t* bits) {
  for (int b = 0; b < Blocks; ++b) {
    bits[b] = 0;
    for (int g = 0; g < 8; ++g) {
      const AesBlock bytes =
          ars(key, 8 * (first + static_cast<uint64_t>(b)) + static_cast<uint64_t>(g), kMaskRounds);
      for (int i = 0; i < 8; ++i) {
        const uint32_t number = bytes[2 * i] | static_cast<uint32_t>(bytes[2 * i + 1]) << 8;
        bits[b] |= static_cast<uint64_t>(number >= threshold) << (8 * g + i);
      }
    }
  }
}
#endif

/// Bits of `count` blocks from block `first`.
inline void draw_mask(const DropoutMask& mask, uint64_t first, int64_t count, uint64_t* bits) {
  constexpr int kBlocks = kLanes == 16 ? 4 : 1;  // as many as the registers hold: rounds are chains
  const uint32_t threshold = mask.threshold();
  int64_t b = 0;
  for (; b + kBlocks <= count; b += kBlocks)
    draw_blocks<kBlocks>(mask.key, first + static_cast<uint64_t>(b), threshold, bits + b);
  for (; b < count; ++b) draw_blocks<1>(mask.key, first + static_cast<uint64_t>(b), threshold, bits + b);
}

/// Some consecutive elements of a mask, from a whole byte on; without a mask, everything is kept.
class MaskBits {
 public:
  MaskBits() = default;
  explicit MaskBits(const unsigned char* bytes) : bytes_(bytes) {}

  bool active() const { return bytes_ != nullptr; }

  /// The mask without its first `count` elements, a multiple of 8.
  MaskBits from(int64_t count) const { return MaskBits(active() ? bytes_ + count / 8 : nullptr); }

  /// The bits of elements i .. i + kLanes - 1, for i a multiple of kLanes.
  MSPLORA_INLINE uint32_t lanes(const MaskBits& mask, int64_t i) {
    if constexpr (kLanes == 16) {
      uint16_t bits;
      std::memcpy(&bits, mask.bytes_ + i / 8, sizeof(bits));
      return bits;
    }
    return static_cast<uint32_t>(mask.bytes_[i / 8]) >> (i % 8);
  }

 private:
  const unsigned char* bytes_ = nullptr;
};

/// Words that elements [first, first + width) need, with room for reads beyond the end.
inline int64_t mask_words(int64_t width) {
  return width / kMaskBlock + 3;
}

/// Draws elements [first, first + width) into `words` (mask_words(width) of them).
inline MaskBits draw_row(const DropoutMask& mask, int64_t first, int64_t width, uint64_t* words) {
  const int64_t block = first / kMaskBlock, count = (first + width + kMaskBlock - 1) / kMaskBlock - block;
  draw_mask(mask, static_cast<uint64_t>(block), count, words);
  const int64_t bit = first - block * kMaskBlock;
  if (const int64_t odd = bit % 8; odd != 0) {
    for (int64_t w = 0; w < count; ++w)
      words[w] = words[w] >> odd | (w + 1 < count ? words[w + 1] << (kMaskBlock - odd) : 0);
  }
  return MaskBits(reinterpret_cast<const unsigned char*>(words) + bit / 8);
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

/// mask(p[i ..]), unscaled, for elements i .. i + kLanes - 1: dropped ones are not even read.
template <typename T>
MSPLORA_INLINE VecF load_kept(const T* p, const MaskBits& mask, int64_t i) {
#if defined(__AVX512F__)
  const auto bits = static_cast<__mmask16>(MaskBits::lanes(mask, i));
  if constexpr (sizeof(T) == 4) return (VecF)_mm512_maskz_loadu_ps(bits, p + i);
  if constexpr (sizeof(T) == 2) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i));
    return (VecF)_mm512_slli_epi32(_mm512_maskz_cvtepu16_epi32(bits, half), 16);
  }
#endif
  return keep(load(p + i), mask, i);
}

}  // namespace msplora::kernels::MSPLORA_ISA
