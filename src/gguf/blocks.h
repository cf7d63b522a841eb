#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "msplora/gguf/types.h"

namespace msplora::detail {

/// Fills `values` with what `count` elements stand for.
using ReadNumbers = void (*)(const uint8_t* data, int64_t count, float* values);

// Plain numbers.
void read_f32(const uint8_t* data, int64_t count, float* values);
void read_f16(const uint8_t* data, int64_t count, float* values);
void read_bf16(const uint8_t* data, int64_t count, float* values);
void read_f64(const uint8_t* data, int64_t count, float* values);

/// Takes one block apart. Factors that a type has none of (QuantisedForm) stay as they are.
using TakeApart = void (*)(const uint8_t* block, BlockParts& parts);

// Blocks of 32.
void take_apart_q4_0(const uint8_t* block, BlockParts& parts);
void take_apart_q4_1(const uint8_t* block, BlockParts& parts);
void take_apart_q5_0(const uint8_t* block, BlockParts& parts);
void take_apart_q5_1(const uint8_t* block, BlockParts& parts);
void take_apart_q8_0(const uint8_t* block, BlockParts& parts);
void take_apart_iq4_nl(const uint8_t* block, BlockParts& parts);
void take_apart_mxfp4(const uint8_t* block, BlockParts& parts);
// Blocks of 256.
void take_apart_q2_k(const uint8_t* block, BlockParts& parts);
void take_apart_q3_k(const uint8_t* block, BlockParts& parts);
void take_apart_q4_k(const uint8_t* block, BlockParts& parts);
void take_apart_q5_k(const uint8_t* block, BlockParts& parts);
void take_apart_q6_k(const uint8_t* block, BlockParts& parts);
void take_apart_iq4_xs(const uint8_t* block, BlockParts& parts);
void take_apart_tq1_0(const uint8_t* block, BlockParts& parts);
void take_apart_tq2_0(const uint8_t* block, BlockParts& parts);

/// The values of `elements` elements whose factors belong to runs of `run`.
void put_together(const BlockParts& parts, int64_t elements, int64_t run, float* values);

inline uint16_t u16_at(const uint8_t* bytes) {
  return static_cast<uint16_t>(bytes[0] | bytes[1] << 8);
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = (half & 0x8000U) << 16, exponent = half >> 10 & 31U, mantissa = half & 1023U;
  if (exponent == 0) {
    const float size = static_cast<float>(mantissa) * 0x1p-24F;
    return sign != 0 ? -size : size;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

inline float half_at(const uint8_t* bytes) {
  return half_to_float(u16_at(bytes));
}

/// What codes of four bits stand for: in IQ4_NL and IQ4_XS; in MXFP4, FP4 (E2M1) in halves; numbers without
/// and with a sign.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
inline constexpr int8_t kFp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
inline constexpr int8_t kFourBits[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
inline constexpr int8_t kSignedFourBits[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

}  // namespace msplora::detail
