// Blocks of 256 elements: eight or sixteen runs with a factor of their own, a small integer that multiplies
// the block's.

#include "gguf/blocks.h"

namespace msplora::detail {
namespace {

// Twelve bytes hold eight factors and eight minimums of six bits.
void six_bits(const uint8_t* s, BlockParts& parts) {
  for (int k = 0; k < 4; ++k) {
    parts.factors[k] = static_cast<int8_t>(s[k] & 63);
    parts.low_factors[k] = s[k + 4] & 63;
    parts.factors[k + 4] = static_cast<int8_t>((s[k + 8] & 15) | (s[k] >> 6) << 4);
    parts.low_factors[k + 4] = static_cast<uint8_t>((s[k + 8] >> 4) | (s[k + 4] >> 6) << 4);
  }
}

}  // namespace

// Sixteen runs of sixteen elements: run k reads two bits of bytes 32 (k / 8) + 16 (k mod 2).
void take_apart_q2_k(const uint8_t* block, BlockParts& parts) {
  const uint8_t *s = block, *q = block + 16;
  parts.d = half_at(block + 80), parts.low = half_at(block + 82);
  for (int k = 0; k < 16; ++k) {
    const uint8_t* bytes = q + 32 * (k / 8) + 16 * (k % 2);
    const int shift = 2 * (k % 8 / 2);
    parts.factors[k] = static_cast<int8_t>(s[k] & 15), parts.low_factors[k] = s[k] >> 4;
    for (int l = 0; l < 16; ++l) parts.codes[16 * k + l] = static_cast<int8_t>(bytes[l] >> shift & 3);
  }
}

// The same runs with a third bit, which is inverted and counts 4.
void take_apart_q3_k(const uint8_t* block, BlockParts& parts) {
  const uint8_t *h = block, *q = block + 32, *s = block + 96;
  parts.d = half_at(block + 108);
  for (int k = 0; k < 16; ++k) {
    const int n = k / 8, i = k % 8 / 2, e = k % 2;
    const int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4;
    const int code = low | (s[8 + k % 4] >> (2 * (k / 4)) & 3) << 4;
    parts.factors[k] = static_cast<int8_t>(code - 32);
    const uint8_t *bytes = q + 32 * n + 16 * e, *bits = h + 16 * e;
    for (int l = 0; l < 16; ++l) {
      const int high = (bits[l] >> (4 * n + i) & 1) != 0 ? 0 : 4;
      parts.codes[16 * k + l] = static_cast<int8_t>((bytes[l] >> (2 * i) & 3) - high);
    }
  }
}

void take_apart_q4_k(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block), parts.low = half_at(block + 2);
  six_bits(block + 4, parts);
  const uint8_t* q = block + 16;
  for (int g = 0; g < 4; ++g, q += 32) {
    int8_t* codes = parts.codes + 64 * g;
    for (int l = 0; l < 32; ++l) {
      codes[l] = static_cast<int8_t>(q[l] & 15);
      codes[l + 32] = static_cast<int8_t>(q[l] >> 4);
    }
  }
}

void take_apart_q5_k(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block), parts.low = half_at(block + 2);
  six_bits(block + 4, parts);
  const uint8_t *h = block + 16, *q = block + 48;
  for (int g = 0; g < 4; ++g, q += 32) {
    int8_t* codes = parts.codes + 64 * g;
    for (int l = 0; l < 32; ++l) {
      codes[l] = static_cast<int8_t>((q[l] & 15) + 16 * (h[l] >> (2 * g) & 1));
      codes[l + 32] = static_cast<int8_t>((q[l] >> 4) + 16 * (h[l] >> (2 * g + 1) & 1));
    }
  }
}

void take_apart_q6_k(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block + 208);
  std::memcpy(parts.factors, block + 192, 16);
  for (int n = 0; n < 2; ++n) {
    const uint8_t *low = block + 64 * n, *high = block + 128 + 32 * n;
    int8_t* codes = parts.codes + 128 * n;
    for (int l = 0; l < 32; ++l) {
      const int a = low[l], b = low[l + 32], h = high[l];
      codes[l] = static_cast<int8_t>(((a & 15) | (h & 3) << 4) - 32);
      codes[l + 32] = static_cast<int8_t>(((b & 15) | (h >> 2 & 3) << 4) - 32);
      codes[l + 64] = static_cast<int8_t>((a >> 4 | (h >> 4 & 3) << 4) - 32);
      codes[l + 96] = static_cast<int8_t>((b >> 4 | (h >> 6) << 4) - 32);
    }
  }
}

void take_apart_iq4_xs(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block);
  const uint16_t high = u16_at(block + 2);
  const uint8_t *low = block + 4, *q = block + 8;
  for (int k = 0; k < 8; ++k, q += 16) {
    const int code = (low[k / 2] >> (4 * (k % 2)) & 15) | (high >> (2 * k) & 3) << 4;
    parts.factors[k] = static_cast<int8_t>(code - 32);
    int8_t* codes = parts.codes + 32 * k;
    for (int j = 0; j < 16; ++j) {
      codes[j] = kIq4Values[q[j] & 15];
      codes[j + 16] = kIq4Values[q[j] >> 4];
    }
  }
}

namespace {

// A byte holds several digits -1, 0, 1 of a number in base 3, as a fraction of 256: digit n is what a
// multiplication by 3 carries over the byte once the digits before it are gone.
void ternary(const uint8_t* q, int bytes, int digits, int8_t*& codes) {
  uint8_t power = 1;
  for (int n = 0; n < digits; ++n, power = static_cast<uint8_t>(3 * power)) {
    for (int m = 0; m < bytes; ++m) {
      const auto rest = static_cast<uint8_t>(q[m] * power);
      *codes++ = static_cast<int8_t>((rest * 3 >> 8) - 1);
    }
  }
}

}  // namespace

void take_apart_tq1_0(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block + 52);
  int8_t* codes = parts.codes;
  ternary(block, 32, 5, codes);
  ternary(block + 32, 16, 5, codes);
  ternary(block + 48, 4, 4, codes);
}

void take_apart_tq2_0(const uint8_t* block, BlockParts& parts) {
  parts.d = half_at(block + 64);
  int8_t* codes = parts.codes;
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = block + 32 * half;
    for (int shift = 0; shift < 8; shift += 2)
      for (int m = 0; m < 32; ++m) *codes++ = static_cast<int8_t>((q[m] >> shift & 3) - 1);
  }
}

}  // namespace msplora::detail
