#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace msplora::detail {

/// Fills `values` with what `count` blocks stand for.
using DequantiseBlocks = void (*)(const uint8_t* blocks, int64_t count, float* values);

// Plain numbers.
void dequantise_f32(const uint8_t* blocks, int64_t count, float* values);
void dequantise_f16(const uint8_t* blocks, int64_t count, float* values);
void dequantise_bf16(const uint8_t* blocks, int64_t count, float* values);
void dequantise_f64(const uint8_t* blocks, int64_t count, float* values);
// Blocks of 32.
void dequantise_q4_0(const uint8_t* blocks, int64_t count, float* values);
void dequantise_q4_1(const uint8_t* blocks, int64_t count, float* values);
void dequantise_q5_0(const uint8_t* blocks, int64_t count, float* values);
void dequantise_q5_1(const uint8_t* blocks, int64_t count, float* values);
void dequantise_q8_0(const uint8_t* blocks, int64_t count, float* values);
void dequantise_iq4_nl(const uint8_t* blocks, int64_t count, float* values);
void dequantise_mxfp4(const uint8_t* blocks, int64_t count, float* values);
// Blocks of 256.
void dequantise_q2_k(const uint8_t* blocks, int64_t count, float* values);
void dequantise_q3_k(const uint8_t* blocks, int64_t count, float* values);
void dequantise_q4_k(const uint8_t* blocks, int64_t count, float* values);
void dequantise_q5_k(const uint8_t* blocks, int64_t count, float* values);
void dequantise_q6_k(const uint8_t* blocks, int64_t count, float* values);
void dequantise_iq4_xs(const uint8_t* blocks, int64_t count, float* values);
void dequantise_tq1_0(const uint8_t* blocks, int64_t count, float* values);
void dequantise_tq2_0(const uint8_t* blocks, int64_t count, float* values);

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

/// Values of the codes of IQ4_NL and IQ4_XS.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace msplora::detail
