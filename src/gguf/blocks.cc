// Blocks of 32 elements, and plain numbers. A byte of a block holds elements j and j + 16, not neighbours.
//
// Built without contraction of products and sums (CMakeLists.txt): values must have ggml's bits.

#include "gguf/blocks.h"

namespace msplora::detail {

void read_f32(const uint8_t* data, int64_t count, float* values) {
  std::memcpy(values, data, static_cast<size_t>(count) * sizeof(float));
}

void read_f16(const uint8_t* data, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = half_at(data + 2 * i);
}

void read_bf16(const uint8_t* data, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i)
    values[i] = std::bit_cast<float>(static_cast<uint32_t>(u16_at(data + 2 * i)) << 16);
}

void read_f64(const uint8_t* data, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) {
    double value = 0.0;
    std::memcpy(&value, data + sizeof(double) * static_cast<size_t>(i), sizeof value);
    values[i] = static_cast<float>(value);
  }
}

void put_together(const BlockParts& parts, int64_t elements, int64_t run, float* values) {
  for (int64_t begin = 0, k = 0; begin < elements; begin += run, ++k) {
    const float scale = parts.d * static_cast<float>(parts.factors[k]),
                low = parts.low * static_cast<float>(parts.low_factors[k]);
    for (int64_t i = begin; i < begin + run; ++i)
      values[i] = scale * static_cast<float>(parts.codes[i]) - low;
  }
}

void take_apart_q8_0(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block);
  std::memcpy(parts.codes, block + 2, 32);
}

void take_apart_q4_0(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block);
  const uint8_t* q = block + 2;
  for (int j = 0; j < 16; ++j) {
    parts.codes[j] = static_cast<int8_t>((q[j] & 15) - 8);
    parts.codes[j + 16] = static_cast<int8_t>((q[j] >> 4) - 8);
  }
}

void take_apart_q4_1(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block), parts.low = -half_at(block + 2);
  const uint8_t* q = block + 4;
  for (int j = 0; j < 16; ++j) {
    parts.codes[j] = static_cast<int8_t>(q[j] & 15);
    parts.codes[j + 16] = static_cast<int8_t>(q[j] >> 4);
  }
}

namespace {

// The fifth bit of the 32 numbers stands in the first four bytes.
void five_bits(const uint8_t* high_bits, const uint8_t* q, int offset, int8_t* codes) {
  const uint32_t high =
      static_cast<uint32_t>(u16_at(high_bits)) | static_cast<uint32_t>(u16_at(high_bits + 2)) << 16;
  for (int j = 0; j < 16; ++j) {
    codes[j] = static_cast<int8_t>(((q[j] & 15) | static_cast<int>(high >> j & 1U) << 4) - offset);
    codes[j + 16] = static_cast<int8_t>((q[j] >> 4 | static_cast<int>(high >> (j + 16) & 1U) << 4) - offset);
  }
}

void from_table(const int8_t (&table)[16], const uint8_t* q, int8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = table[q[j] & 15];
    codes[j + 16] = table[q[j] >> 4];
  }
}

}  // namespace

void take_apart_q5_0(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block);
  five_bits(block + 2, block + 6, 16, parts.codes);
}

void take_apart_q5_1(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block), parts.low = -half_at(block + 2);
  five_bits(block + 4, block + 8, 0, parts.codes);
}

void take_apart_iq4_nl(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block);
  from_table(kIq4Values, block + 2, parts.codes);
}

// The factor is a power of two, half of what its byte says.
void take_apart_mxfp4(const uint8_t* block, BlockParts& parts) {
  const uint32_t e = block[0];
  parts.d = std::bit_cast<float>(e < 2 ? 0x00200000U << e : (e - 1) << 23);
  from_table(kFp4Values, block + 1, parts.codes);
}

}  // namespace msplora::detail
