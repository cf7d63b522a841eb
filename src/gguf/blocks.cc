// Blocks of 32 elements, and plain numbers. A byte of a block holds elements j and j + 16, not neighbours.
//
// Built without contraction of products and sums (CMakeLists.txt): values must have ggml's bits.

#include "gguf/blocks.h"

namespace msplora::detail {

void dequantise_f32(const uint8_t* blocks, int64_t count, float* values) {
  std::memcpy(values, blocks, static_cast<size_t>(count) * sizeof(float));
}

void dequantise_f16(const uint8_t* blocks, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = half_at(blocks + 2 * i);
}

void dequantise_bf16(const uint8_t* blocks, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i)
    values[i] = std::bit_cast<float>(static_cast<uint32_t>(u16_at(blocks + 2 * i)) << 16);
}

void dequantise_f64(const uint8_t* blocks, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) {
    double value = 0.0;
    std::memcpy(&value, blocks + sizeof(double) * static_cast<size_t>(i), sizeof value);
    values[i] = static_cast<float>(value);
  }
}

void dequantise_q8_0(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 34, y += 32) {
    const float d = half_at(block);
    for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(static_cast<int8_t>(block[2 + j])) * d;
  }
}

void dequantise_q4_0(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 18, y += 32) {
    const float d = half_at(block);
    const uint8_t* q = block + 2;
    for (int j = 0; j < 16; ++j) {
      y[j] = static_cast<float>((q[j] & 15) - 8) * d;
      y[j + 16] = static_cast<float>((q[j] >> 4) - 8) * d;
    }
  }
}

void dequantise_q4_1(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 20, y += 32) {
    const float d = half_at(block), m = half_at(block + 2);
    const uint8_t* q = block + 4;
    for (int j = 0; j < 16; ++j) {
      y[j] = static_cast<float>(q[j] & 15) * d + m;
      y[j + 16] = static_cast<float>(q[j] >> 4) * d + m;
    }
  }
}

namespace {

uint32_t u32_at(const uint8_t* bytes) {
  return static_cast<uint32_t>(u16_at(bytes)) | static_cast<uint32_t>(u16_at(bytes + 2)) << 16;
}

// The fifth bit of the 32 numbers stands in `high`.
int five_bits_low(uint8_t q, uint32_t high, int j) {
  return (q & 15) | static_cast<int>(high >> j & 1U) << 4;
}
int five_bits_high(uint8_t q, uint32_t high, int j) {
  return q >> 4 | static_cast<int>(high >> (j + 16) & 1U) << 4;
}

}  // namespace

void dequantise_q5_0(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 22, y += 32) {
    const float d = half_at(block);
    const uint32_t high = u32_at(block + 2);
    const uint8_t* q = block + 6;
    for (int j = 0; j < 16; ++j) {
      y[j] = static_cast<float>(five_bits_low(q[j], high, j) - 16) * d;
      y[j + 16] = static_cast<float>(five_bits_high(q[j], high, j) - 16) * d;
    }
  }
}

void dequantise_q5_1(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 24, y += 32) {
    const float d = half_at(block), m = half_at(block + 2);
    const uint32_t high = u32_at(block + 4);
    const uint8_t* q = block + 8;
    for (int j = 0; j < 16; ++j) {
      y[j] = static_cast<float>(five_bits_low(q[j], high, j)) * d + m;
      y[j + 16] = static_cast<float>(five_bits_high(q[j], high, j)) * d + m;
    }
  }
}

void dequantise_iq4_nl(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 18, y += 32) {
    const float d = half_at(block);
    const uint8_t* q = block + 2;
    for (int j = 0; j < 16; ++j) {
      y[j] = d * static_cast<float>(kIq4Values[q[j] & 15]);
      y[j + 16] = d * static_cast<float>(kIq4Values[q[j] >> 4]);
    }
  }
}

// The factor is a power of two, half of what its byte says; the codes are FP4 (E2M1) in halves.
void dequantise_mxfp4(const uint8_t* block, int64_t count, float* y) {
  constexpr int8_t kHalves[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  for (; count > 0; --count, block += 17, y += 32) {
    const uint32_t e = block[0];
    const float d = std::bit_cast<float>(e < 2 ? 0x00200000U << e : (e - 1) << 23);
    const uint8_t* q = block + 1;
    for (int j = 0; j < 16; ++j) {
      y[j] = d * static_cast<float>(kHalves[q[j] & 15]);
      y[j + 16] = d * static_cast<float>(kHalves[q[j] >> 4]);
    }
  }
}

}  // namespace msplora::detail
