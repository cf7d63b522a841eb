// Blocks of 256 elements: eight or sixteen parts with a factor of their own, which is a small integer times
// the block's. Built without contraction of products and sums, as blocks.cc.

#include "gguf/blocks.h"

namespace msplora::detail {
namespace {

// Twelve bytes hold eight factors and eight minimums of six bits.
struct ScaleAndMin {
  float scale, min;
};
ScaleAndMin six_bits(const uint8_t* s, int k) {
  if (k < 4) return {static_cast<float>(s[k] & 63), static_cast<float>(s[k + 4] & 63)};
  return {static_cast<float>((s[k + 4] & 15) | (s[k - 4] >> 6) << 4),
          static_cast<float>((s[k + 4] >> 4) | (s[k] >> 6) << 4)};
}

}  // namespace

// Sixteen runs of sixteen elements: run k reads two bits of bytes 32 (k / 8) + 16 (k mod 2).
void dequantise_q2_k(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 84, y += 256) {
    const uint8_t *s = block, *q = block + 16;
    const float d = half_at(block + 80), dmin = half_at(block + 82);
    for (int k = 0; k < 16; ++k) {
      const uint8_t* bytes = q + 32 * (k / 8) + 16 * (k % 2);
      const int shift = 2 * (k % 8 / 2);
      const float scale = d * static_cast<float>(s[k] & 15), min = dmin * static_cast<float>(s[k] >> 4);
      for (int l = 0; l < 16; ++l) y[16 * k + l] = scale * static_cast<float>(bytes[l] >> shift & 3) - min;
    }
  }
}

// The same runs with a third bit, which is inverted and counts 4.
void dequantise_q3_k(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 110, y += 256) {
    const uint8_t *h = block, *q = block + 32, *s = block + 96;
    const float d = half_at(block + 108);
    for (int k = 0; k < 16; ++k) {
      const int n = k / 8, i = k % 8 / 2, e = k % 2;
      const int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4;
      const int code = low | (s[8 + k % 4] >> (2 * (k / 4)) & 3) << 4;
      const float scale = d * static_cast<float>(code - 32);
      const uint8_t *bytes = q + 32 * n + 16 * e, *bits = h + 16 * e;
      for (int l = 0; l < 16; ++l) {
        const int high = (bits[l] >> (4 * n + i) & 1) != 0 ? 0 : 4;
        y[16 * k + l] = scale * static_cast<float>((bytes[l] >> (2 * i) & 3) - high);
      }
    }
  }
}

void dequantise_q4_k(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 144, y += 256) {
    const float d = half_at(block), dmin = half_at(block + 2);
    const uint8_t *s = block + 4, *q = block + 16;
    for (int g = 0; g < 4; ++g, q += 32) {
      const ScaleAndMin low = six_bits(s, 2 * g), high = six_bits(s, 2 * g + 1);
      const float d0 = d * low.scale, m0 = dmin * low.min, d1 = d * high.scale, m1 = dmin * high.min;
      float* out = y + 64 * g;
      for (int l = 0; l < 32; ++l) {
        out[l] = d0 * static_cast<float>(q[l] & 15) - m0;
        out[l + 32] = d1 * static_cast<float>(q[l] >> 4) - m1;
      }
    }
  }
}

void dequantise_q5_k(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 176, y += 256) {
    const float d = half_at(block), dmin = half_at(block + 2);
    const uint8_t *s = block + 4, *h = block + 16, *q = block + 48;
    for (int g = 0; g < 4; ++g, q += 32) {
      const ScaleAndMin low = six_bits(s, 2 * g), high = six_bits(s, 2 * g + 1);
      const float d0 = d * low.scale, m0 = dmin * low.min, d1 = d * high.scale, m1 = dmin * high.min;
      float* out = y + 64 * g;
      for (int l = 0; l < 32; ++l) {
        const int first = (q[l] & 15) + 16 * (h[l] >> (2 * g) & 1);
        const int second = (q[l] >> 4) + 16 * (h[l] >> (2 * g + 1) & 1);
        out[l] = d0 * static_cast<float>(first) - m0;
        out[l + 32] = d1 * static_cast<float>(second) - m1;
      }
    }
  }
}

void dequantise_q6_k(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 210, y += 256) {
    const float d = half_at(block + 208);
    for (int n = 0; n < 2; ++n) {
      const uint8_t *ql = block + 64 * n, *qh = block + 128 + 32 * n;
      const auto* sc = reinterpret_cast<const int8_t*>(block + 192 + 8 * n);
      float* out = y + 128 * n;
      for (int l = 0; l < 32; ++l) {
        const int k = l / 16, a = ql[l], b = ql[l + 32], h = qh[l];
        const int codes[4] = {(a & 15) | (h & 3) << 4, (b & 15) | (h >> 2 & 3) << 4,
                              a >> 4 | (h >> 4 & 3) << 4, b >> 4 | (h >> 6) << 4};
        for (int part = 0; part < 4; ++part) {
          const float scale = d * static_cast<float>(sc[k + 2 * part]);
          out[l + 32 * part] = scale * static_cast<float>(codes[part] - 32);
        }
      }
    }
  }
}

void dequantise_iq4_xs(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 136, y += 256) {
    const float d = half_at(block);
    const uint16_t high = u16_at(block + 2);
    const uint8_t *low = block + 4, *q = block + 8;
    for (int k = 0; k < 8; ++k, q += 16) {
      const int code = (low[k / 2] >> (4 * (k % 2)) & 15) | (high >> (2 * k) & 3) << 4;
      const float scale = d * static_cast<float>(code - 32);
      float* out = y + 32 * k;
      for (int j = 0; j < 16; ++j) {
        out[j] = scale * static_cast<float>(kIq4Values[q[j] & 15]);
        out[j + 16] = scale * static_cast<float>(kIq4Values[q[j] >> 4]);
      }
    }
  }
}

namespace {

// A byte holds several digits -1, 0, 1 of a number in base 3, as a fraction of 256: digit n is what a
// multiplication by 3 carries over the byte once the digits before it are gone.
void ternary(const uint8_t* q, int bytes, int digits, float d, float*& y) {
  uint8_t power = 1;
  for (int n = 0; n < digits; ++n, power = static_cast<uint8_t>(3 * power)) {
    for (int m = 0; m < bytes; ++m) {
      const auto rest = static_cast<uint8_t>(q[m] * power);
      *y++ = static_cast<float>((rest * 3 >> 8) - 1) * d;
    }
  }
}

}  // namespace

void dequantise_tq1_0(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 54) {
    const float d = half_at(block + 52);
    ternary(block, 32, 5, d, y);
    ternary(block + 32, 16, 5, d, y);
    ternary(block + 48, 4, 4, d, y);
  }
}

void dequantise_tq2_0(const uint8_t* block, int64_t count, float* y) {
  for (; count > 0; --count, block += 66) {
    const float d = half_at(block + 64);
    for (int half = 0; half < 2; ++half) {
      const uint8_t* q = block + 32 * half;
      for (int shift = 0; shift < 8; shift += 2)
        for (int m = 0; m < 32; ++m) *y++ = static_cast<float>((q[m] >> shift & 3) - 1) * d;
    }
  }
}

}  // namespace msplora::detail
