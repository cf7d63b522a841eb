#pragma once

// Portable SIMD through the compilers' vector extensions: the same source gives SSE2/NEON, AVX2 or AVX-512
// code, depending on the flags the file is built with. Everything lies in a namespace per instruction set.

#include <cstdint>
#include <cstring>

#include "kernels/table.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace msplora::kernels::MSPLORA_ISA {

#if defined(MSPLORA_ISA_avx512) || defined(MSPLORA_ISA_avx512bf16)
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
typedef uint64_t VecL __attribute__((vector_size(kLanes * 4)));  // kLanes / 2 lanes
typedef uint32_t VecUHalf __attribute__((vector_size(kLanes * 2)));

#define MSPLORA_INLINE static inline __attribute__((always_inline))

/// Fetches the lines of `count` numbers, to be read or written, into the cache of a level that
/// __builtin_prefetch numbers (3: the first, 2: the second). Inlined by force, and so must be whatever does
/// nothing else: GCC drops calls of functions that only fetch.
template <int kIsWritten, int kLocality, typename T>
MSPLORA_INLINE void fetch_lines(const T* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(T)))
    __builtin_prefetch(p + i, kIsWritten, kLocality);
}

MSPLORA_INLINE VecF splat(float value) {
  // Of a sum with zero, which says the same for all but -0, compilers keep the addition.
#if defined(__AVX512F__)
  return (VecF)_mm512_set1_ps(value);
#elif defined(__AVX2__)
  return (VecF)_mm256_set1_ps(value);
#elif defined(__SSE2__)
  return (VecF)_mm_set1_ps(value);
#else
  return VecF{} + value;
#endif
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
#if defined(__AVX512F__)  // GCC 12 splits the conversion in two
  return (VecF)((VecU)_mm512_maskz_cvtepu16_epi32(0xFFFF, (__m256i)h) << 16);
#else
  return (VecF)(__builtin_convertvector(h, VecU) << 16);
#endif
}
MSPLORA_INLINE void store(Bfloat16* p, VecF v) {
  // Round to nearest even; a NaN keeps its quiet bit and stays one.
#if defined(__AVX512BF16__)
  const __m256bh packed = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &packed, sizeof(packed));
#else
  const VecU bits = (VecU)v;
  const VecU rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const VecU is_nan = (VecU)(v != v);
  const VecH h = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7FC0u), VecH);
  std::memcpy(p, &h, sizeof(h));
#endif
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
  return condition ? yes : no;
}
/// b where either is NaN.
MSPLORA_INLINE VecF vmax(VecF a, VecF b) {
#if defined(__AVX512F__)
  return (VecF)_mm512_maskz_max_ps(0xFFFF, (__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}
MSPLORA_INLINE VecF vmin(VecF a, VecF b) {
#if defined(__AVX512F__)
  return (VecF)_mm512_maskz_min_ps(0xFFFF, (__m512)a, (__m512)b);
#else
  return a < b ? a : b;
#endif
}

/// Sums and maxima over lanes add the upper half to the lower until one lane is left, in every build.
#if defined(__SSE2__)
MSPLORA_INLINE __m128 quarter(VecF v, [[maybe_unused]] bool is_sum) {
#if defined(__AVX512F__)
  const __m256 low = _mm512_castps512_ps256((__m512)v);
  const __m256 high = _mm512_castps512_ps256(_mm512_maskz_shuffle_f32x4(0xFFFF, (__m512)v, (__m512)v, 0x4E));
  const __m256 half = is_sum ? _mm256_add_ps(low, high) : _mm256_max_ps(low, high);
#elif defined(__AVX2__)
  const __m256 half = (__m256)v;
#endif
#if defined(__AVX2__)
  const __m128 a = _mm256_castps256_ps128(half), b = _mm256_extractf128_ps(half, 1);
  return is_sum ? _mm_add_ps(a, b) : _mm_max_ps(a, b);
#else
  return (__m128)v;
#endif
}
MSPLORA_INLINE float sum_lanes(VecF v) {
  __m128 q = quarter(v, true);
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
MSPLORA_INLINE float max_lanes(VecF v) {
  __m128 q = quarter(v, false);
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}
#else
MSPLORA_INLINE float sum_lanes(VecF v) {
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
}
MSPLORA_INLINE float max_lanes(VecF v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}
#endif

/// 1 / x to about 1 ulp, for finite x that are not tiny.
MSPLORA_INLINE VecF reciprocal(VecF x) {
#if defined(__AVX512F__)
  const VecF guess = (VecF)_mm512_rcp14_ps((__m512)x);
  return guess * (2.0f - x * guess);  // one Newton step: 14 bits become 28
#else
  return 1.0f / x;
#endif
}

/// e^x to about 2 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, degree-6 polynomial; clamped to the range of float.
/// NaN stays NaN, so that a broken model is noticed. `kNegative`: no argument is above 88.
template <bool kNegative = false>
MSPLORA_INLINE VecF exp(VecF x) {
  x = vmax(splat(-87.3f), x);
  if (!kNegative) x = vmin(splat(88.0f), x);
#if defined(__AVX512F__)
  const VecF n = (VecF)_mm512_roundscale_ps((__m512)(x * 1.44269504088896341f), _MM_FROUND_TO_NEAREST_INT);
#else
  const VecF shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const VecF n = (x * 1.44269504088896341f + shifter) - shifter;
#endif
  VecF r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  VecF p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
#if defined(__AVX512F__)
  return (VecF)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const VecI exponent = (__builtin_convertvector(n, VecI) + 127) << 23;
  return p * (VecF)exponent;
#endif
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

/// Product of the low 32 bits of each 64-bit lane.
MSPLORA_INLINE VecL multiply_low(VecL a, VecL b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(VecL) == 64) return (VecL)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  if constexpr (sizeof(VecL) == 32) return (VecL)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  if constexpr (sizeof(VecL) == 16) return (VecL)_mm_mul_epu32((__m128i)a, (__m128i)b);
#endif
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
}

/// 64-bit lanes of a vector.
inline constexpr int kWide = kLanes / 2;

/// Philox 4x32-7: the words of the counters (first .. first + Vectors * kWide - 1, high). Each 32-bit word of
/// the state lies in the low half of a 64-bit lane, as products leave it; the high halves hold rubbish that
/// no product reads.
template <int Vectors>
MSPLORA_INLINE void philox_words(uint64_t key, uint64_t first, uint64_t high, VecL* c0, VecL* c1, VecL* c2,
                                 VecL* c3) {
  VecL lane;
  for (int i = 0; i < kWide; ++i) lane[i] = static_cast<uint64_t>(i);
  for (int g = 0; g < Vectors; ++g) {
    c0[g] = lane + (first + static_cast<uint64_t>(g * kWide));
    c1[g] = c0[g] >> 32;
    c2[g] = VecL{} + high;
    c3[g] = c2[g] >> 32;
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  const VecL m0 = VecL{} + 0xD2511F53u, m1 = VecL{} + 0xCD9E8D57u;
#pragma GCC unroll 7
  for (int round = 0; round < kNoiseRounds; ++round) {
    const VecL key0 = VecL{} + k0, key1 = VecL{} + k1;
    for (int g = 0; g < Vectors; ++g) {
      const VecL p0 = multiply_low(c0[g], m0), p1 = multiply_low(c2[g], m1);
      c0[g] = (p1 >> 32) ^ c1[g] ^ key0;
      c2[g] = (p0 >> 32) ^ c3[g] ^ key1;
      c1[g] = p1;
      c3[g] = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

}  // namespace msplora::kernels::MSPLORA_ISA
