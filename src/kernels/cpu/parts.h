#pragma once

// Numbers in bfloat16 for products of pairs. A float is the sum of `kParts` of them, each the rounded rest of
// those before; a Bfloat16 is its own only part.
#include "kernels/cpu/simd.h"

#if defined(__AVX512BF16__)
namespace msplora::kernels::MSPLORA_ISA {

using Number = Bfloat16;

/// Numbers, and pairs of them, in a vector.
inline constexpr int64_t kNumbers = 32, kPairs = kNumbers / 2;

/// Masks of the lanes below `count`: of a vector of 32 numbers, or of 16.
MSPLORA_INLINE __mmask32 first_numbers(int64_t count) {
  return count >= kNumbers ? 0xFFFFFFFFu : count > 0 ? (1u << count) - 1u : 0u;
}
MSPLORA_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(first_numbers(count < 16 ? count : 16));
}

MSPLORA_INLINE VecF floats_of(__m256i numbers) {
  return (VecF)_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16);
}

/// The parts of one float.
template <int kParts>
MSPLORA_INLINE void split(float value, Number (&parts)[kParts]) {
  for (int part = 0; part < kParts; ++part) {
    set(parts[part], value);
    value -= to_float(parts[part]);
  }
}

/// The next part of 32 floats, which keep the rest.
MSPLORA_INLINE __m512i take_part(VecF& low, VecF& high) {
  const __m512i numbers = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  low -= floats_of(_mm512_castsi512_si256(numbers));
  high -= floats_of(_mm512_extracti64x4_epi64(numbers, 1));
  return numbers;
}

/// The next part of 16 columns of two rows as pairs, the even row in the lower half of each word; the floats
/// keep the rest.
MSPLORA_INLINE VecU take_pairs(VecF& even, VecF& odd) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (VecU)_mm512_permutexvar_epi16(_mm512_load_si512(kOrder), take_part(even, odd));
}

/// 32 numbers of a row: those of the mask, which alone are read, the others zero.
template <int kParts>
MSPLORA_INLINE void load_parts(const Bfloat16* from, __mmask32 valid, __m512i (&parts)[kParts]) {
  static_assert(kParts == 1);
  parts[0] = _mm512_maskz_loadu_epi16(valid, from);
}
template <int kParts>
MSPLORA_INLINE void load_parts(const float* from, __mmask32 valid, __m512i (&parts)[kParts]) {
  VecF low = (VecF)_mm512_maskz_loadu_ps(static_cast<__mmask16>(valid), from);
  VecF high = (VecF)_mm512_maskz_loadu_ps(static_cast<__mmask16>(valid >> kLanes), from + kLanes);
  for (int part = 0; part < kParts; ++part) parts[part] = take_part(low, high);
}

/// 16 columns of two rows as pairs; of each row those that its mask has, the others zero.
template <int kParts>
MSPLORA_INLINE void load_pairs(const Bfloat16* even, const Bfloat16* odd, __mmask16 of_even, __mmask16 of_odd,
                               VecU (&parts)[kParts]) {
  static_assert(kParts == 1);
  const auto half = [](const Bfloat16* row, __mmask16 mask) {
    return (VecU)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row));
  };
  parts[0] = half(even, of_even) | (half(odd, of_odd) << 16);
}
template <int kParts>
MSPLORA_INLINE void load_pairs(const float* even, const float* odd, __mmask16 of_even, __mmask16 of_odd,
                               VecU (&parts)[kParts]) {
  VecF upper = (VecF)_mm512_maskz_loadu_ps(of_even, even), lower = (VecF)_mm512_maskz_loadu_ps(of_odd, odd);
  for (int part = 0; part < kParts; ++part) parts[part] = take_pairs(upper, lower);
}

/// 16 floats to each part of a row; the parts are `next` numbers apart.
template <int kParts>
MSPLORA_INLINE void store_parts(Number* to, int64_t next, VecF value) {
  for (int part = 0; part < kParts; ++part) {
    store(to + part * next, value);
    if (part + 1 < kParts) value -= load(to + part * next);
  }
}

/// Which parts of the left and of the right operand of a product meet: small parts of the left one first,
/// each with all that it meets, so that most often one of both stays. With two parts the error is 2^-16, with
/// three that of float.
template <int kParts>
struct Meeting;
template <>
struct Meeting<1> {
  static constexpr int kCount = 1, kLeft[] = {0}, kRight[] = {0};
};
template <>
struct Meeting<2> {
  static constexpr int kCount = 3, kLeft[] = {1, 0, 0}, kRight[] = {0, 0, 1};
};
template <>
struct Meeting<3> {
  static constexpr int kCount = 6, kLeft[] = {2, 1, 1, 0, 0, 0}, kRight[] = {0, 0, 1, 0, 1, 2};
};

}  // namespace msplora::kernels::MSPLORA_ISA
#endif
