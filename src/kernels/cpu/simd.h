#pragma once

// Portable SIMD through the compilers' vector extensions: the same source gives SSE2/NEON, AVX2 or AVX-512
// code, depending on the flags the file is built with. Everything lies in a namespace per instruction set.

#include <cstdint>
#include <cstring>

#include "kernels/table.h"

namespace msplora::kernels::MSPLORA_ISA {

#if defined(MSPLORA_ISA_avx512)
inline constexpr int kLanes = 16;
#elif defined(MSPLORA_ISA_avx2)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float VecF __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecH __attribute__((vector_size(kLanes * 2)));

#define MSPLORA_INLINE static inline __attribute__((always_inline))

MSPLORA_INLINE VecF splat(float value) {
  return VecF{} + value;
}
MSPLORA_INLINE VecI splat_int(int32_t value) {
  return VecI{} + value;
}

MSPLORA_INLINE VecF load(const float* p) {
  VecF v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
MSPLORA_INLINE void store(float* p, VecF v) {
  std::memcpy(p, &v, sizeof(v));
}

MSPLORA_INLINE VecF load(const Bfloat16* p) {
  VecH h;
  std::memcpy(&h, p, sizeof(h));
  return (VecF)(__builtin_convertvector(h, VecU) << 16);
}
MSPLORA_INLINE void store(Bfloat16* p, VecF v) {
  // Round to nearest even; a NaN keeps its quiet bit and stays one.
  const VecU bits = (VecU)v;
  const VecU rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const VecU is_nan = (VecU)(v != v);
  const VecH h = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7FC0u), VecH);
  std::memcpy(p, &h, sizeof(h));
}

MSPLORA_INLINE float to_float(float value) {
  return value;
}
MSPLORA_INLINE float to_float(Bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
MSPLORA_INLINE void set(float& to, float value) {
  to = value;
}
MSPLORA_INLINE void set(Bfloat16& to, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  to.bits =
      value != value ? uint16_t{0x7FC0} : static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

/// The first n < kLanes elements; the rest of the vector is zero and is not stored.
template <typename T>
MSPLORA_INLINE VecF load_part(const T* p, int n) {
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, sizeof(T) * n);
  return load(buffer);
}
template <typename T>
MSPLORA_INLINE void store_part(T* p, VecF v, int n) {
  T buffer[kLanes];
  store(buffer, v);
  std::memcpy(p, buffer, sizeof(T) * n);
}

MSPLORA_INLINE VecF select(VecI condition, VecF yes, VecF no) {
  return (VecF)((condition & (VecI)yes) | (~condition & (VecI)no));
}
MSPLORA_INLINE VecF vmax(VecF a, VecF b) {
  return select(a > b, a, b);
}
MSPLORA_INLINE VecF vmin(VecF a, VecF b) {
  return select(a < b, a, b);
}

MSPLORA_INLINE float sum_lanes(VecF v) {
  float buffer[kLanes];
  store(buffer, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) buffer[i] += buffer[i + width];
  return buffer[0];
}
MSPLORA_INLINE float max_lanes(VecF v) {
  float buffer[kLanes];
  store(buffer, v);
  float best = buffer[0];
  for (int i = 1; i < kLanes; ++i) best = buffer[i] > best ? buffer[i] : best;
  return best;
}

/// e^x to about 2 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, degree-6 polynomial; clamped to the range of float.
/// NaN stays NaN, so that a broken model is noticed.
MSPLORA_INLINE VecF exp(VecF x) {
  const VecF original = x;
  x = vmin(vmax(x, splat(-87.3f)), splat(88.0f));
  const VecF shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const VecF n = (x * 1.44269504088896341f + shifter) - shifter;
  VecF r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  VecF p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const VecI exponent = (__builtin_convertvector(n, VecI) + 127) << 23;
  const VecF result = p * (VecF)exponent;
  return select(original == original, result, original);
}

/// ln x to about 1 ulp for normal x > 0: x = m 2^e with m in [sqrt(1/2), sqrt(2)), degree-8 polynomial in m
/// - 1.
MSPLORA_INLINE VecF log(VecF x) {
  const VecI bits = (VecI)x;
  VecI exponent = ((bits >> 23) & 0xFF) - 126;
  VecF m = (VecF)((bits & 0x007FFFFF) | 0x3F000000);
  const VecI is_low = (VecI)(m < splat(0.707106781186547524f));
  exponent = exponent + is_low;  // minus one where true
  m = m + select(is_low, m, splat(0.0f)) - 1.0f;
  VecF p = splat(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const VecF square = m * m, e = __builtin_convertvector(exponent, VecF);
  const VecF correction = p * m * square - e * 2.12194440e-4f - square * 0.5f;
  return m + correction + e * 0.693359375f;
}

/// sin and cos of 2 pi t for t in [0, 1], to about 1 ulp: t is reduced to a quarter turn around 0.
MSPLORA_INLINE void sin_cos_turns(VecF t, VecF& sine, VecF& cosine) {
  const VecF shifter = splat(12582912.0f);  // as in exp
  const VecF quarters = t * 4.0f;
  const VecF nearest = (quarters + shifter) - shifter;
  const VecF x = (quarters - nearest) * 1.57079632679489662f;
  const VecF z = x * x;
  const VecF s = ((z * -1.9515295891e-4f + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
  const VecF c = ((z * 2.443315711809948e-5f - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z -
                 z * 0.5f + 1.0f;
  const VecI quadrant = __builtin_convertvector(nearest, VecI);
  const VecI is_swapped = (VecI)((quadrant & 1) != 0);
  const VecI sine_sign = (quadrant & 2) << 30, cosine_sign = ((quadrant + 1) & 2) << 30;
  sine = (VecF)((VecI)select(is_swapped, c, s) ^ sine_sign);
  cosine = (VecF)((VecI)select(is_swapped, s, c) ^ cosine_sign);
}

/// Sixteen lanes of Philox: the words of the counters (first .. first + 15, high).
MSPLORA_INLINE void philox_lanes(uint64_t key, uint64_t first, uint64_t high, uint32_t* c0, uint32_t* c1,
                                 uint32_t* c2, uint32_t* c3) {
  for (int i = 0; i < 16; ++i) {
    const uint64_t counter = first + static_cast<uint64_t>(i);
    c0[i] = static_cast<uint32_t>(counter);
    c1[i] = static_cast<uint32_t>(counter >> 32);
    c2[i] = static_cast<uint32_t>(high);
    c3[i] = static_cast<uint32_t>(high >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 16; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0[i];
      const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<uint32_t>(p1);
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

/// Fills `numbers` with the 16-bit numbers of the 128 elements of one block (see DropoutMask).
MSPLORA_INLINE void philox_block(uint64_t key, uint64_t block, uint16_t* numbers) {
  uint32_t c0[16], c1[16], c2[16], c3[16];
  philox_lanes(key, block * 16, 0, c0, c1, c2, c3);
  for (int i = 0; i < 16; ++i) {
    numbers[i] = static_cast<uint16_t>(c0[i]);
    numbers[16 + i] = static_cast<uint16_t>(c0[i] >> 16);
    numbers[32 + i] = static_cast<uint16_t>(c1[i]);
    numbers[48 + i] = static_cast<uint16_t>(c1[i] >> 16);
    numbers[64 + i] = static_cast<uint16_t>(c2[i]);
    numbers[80 + i] = static_cast<uint16_t>(c2[i] >> 16);
    numbers[96 + i] = static_cast<uint16_t>(c3[i]);
    numbers[112 + i] = static_cast<uint16_t>(c3[i] >> 16);
  }
}

/// The factors (0 or scale) of kLanes consecutive elements, given their 16-bit numbers.
MSPLORA_INLINE VecF mask_factors(const uint16_t* numbers, uint32_t threshold, float scale) {
  VecH h;
  std::memcpy(&h, numbers, sizeof(h));
  const VecI keep = (VecI)(__builtin_convertvector(h, VecI) >= splat_int(static_cast<int32_t>(threshold)));
  return (VecF)(keep & (VecI)splat(scale));
}

}  // namespace msplora::kernels::MSPLORA_ISA
