#include "msplora/gguf/quantise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "msplora/core/error.h"

namespace msplora {
namespace {

void put_u16(uint16_t value, uint8_t* to) {
  to[0] = static_cast<uint8_t>(value);
  to[1] = static_cast<uint8_t>(value >> 8);
}

[[noreturn]] void fail_range(const char* type, float value) {
  throw Error(ErrorCode::kNumerics, "GGUF", "a value of " + std::to_string(value) + " does not fit " + type,
              "write float32 or bfloat16");
}

/// Round to nearest, ties to even.
uint16_t to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000U,
                 size = bits & 0x7fffffffU;
  if (size >= 0x477ff000U) fail_range("F16", value);  // 65520 and more round to infinity
  if (size < 0x38800000U) {                           // subnormal: units of 2^-24
    const float scaled = std::fabs(value) * 0x1p24F;
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(scaled)));
  }
  const uint32_t rounded = size + 0xfffU + (size >> 13 & 1U);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000U) >> 13);
}

uint16_t to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = bits + 0x7fffU + (bits >> 16 & 1U);
  if ((rounded & 0x7f800000U) == 0x7f800000U) fail_range("BF16", value);
  return static_cast<uint16_t>(rounded >> 16);
}

void quantise_q8_0(const float* x, int64_t blocks, uint8_t* to) {
  for (; blocks > 0; --blocks, x += 32, to += 34) {
    float largest = 0.0F;
    for (int j = 0; j < 32; ++j) largest = std::max(largest, std::fabs(x[j]));
    const float d = largest / 127.0F;
    // A d whose inverse is infinite is 0 as a half in any case. Of other d that become 0, ggml keeps the
    // codes.
    const float inverse = d > 0.0F && std::isfinite(1.0F / d) ? 1.0F / d : 0.0F;
    put_u16(to_half(d), to);
    for (int j = 0; j < 32; ++j)
      to[2 + j] = static_cast<uint8_t>(static_cast<int8_t>(std::round(x[j] * inverse)));
  }
}

}  // namespace

const std::vector<GgufType>& written_types() {
  static const std::vector<GgufType> types = {GgufType::kF32, GgufType::kF16, GgufType::kBF16,
                                              GgufType::kQ8_0};
  return types;
}

bool is_written(GgufType type) {
  return std::find(written_types().begin(), written_types().end(), type) != written_types().end();
}

GgufType fitting_type(GgufType wanted, int64_t row_elements) {
  return row_elements % gguf_type_info(wanted).elements == 0 ? wanted : GgufType::kF16;
}

int64_t gguf_bytes(GgufType type, int64_t elements) {
  const GgufTypeInfo& info = gguf_type_info(type);
  return elements / info.elements * info.bytes;
}

void quantise(GgufType type, const float* values, int64_t count, std::byte* blocks) {
  auto* to = reinterpret_cast<uint8_t*>(blocks);
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i]))
      throw Error(ErrorCode::kNumerics, "GGUF", "a value is NaN or infinity",
                  "what is written must be finite");
  }
  switch (type) {
    case GgufType::kF32:
      std::memcpy(to, values, static_cast<size_t>(count) * sizeof(float));
      return;
    case GgufType::kF16:
      for (int64_t i = 0; i < count; ++i) put_u16(to_half(values[i]), to + 2 * i);
      return;
    case GgufType::kBF16:
      for (int64_t i = 0; i < count; ++i) put_u16(to_bfloat16(values[i]), to + 2 * i);
      return;
    case GgufType::kQ8_0:
      return quantise_q8_0(values, count / 32, to);
    default:
      throw Error(ErrorCode::kUsage, "GGUF",
                  std::string(gguf_type_info(type).name) + " is read, but not written",
                  "F32, F16, BF16 and Q8_0 are");
  }
}

}  // namespace msplora
