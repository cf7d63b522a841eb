#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gguf/blocks.h"
#include "gguf/gguf_bytes.h"
#include "msplora/core/error.h"
#include "msplora/gguf/types.h"

// Blocks worked out by hand. Those of every type that ggml and gguf-py made are in golden_gguf_test.cc.
namespace msplora {
namespace {

std::vector<float> values_of(GgufType type, const std::string& block) {
  const GgufTypeInfo& info = gguf_type_info(type);
  EXPECT_EQ(static_cast<int64_t>(block.size()), info.bytes);
  std::vector<float> values(static_cast<size_t>(info.elements));
  dequantise(type, reinterpret_cast<const std::byte*>(block.data()), 1, values.data());
  return values;
}

std::string bytes(std::initializer_list<int> numbers) {
  std::string text;
  for (const int number : numbers) text += static_cast<char>(number);
  return text;
}

std::string filled(const std::string& start, size_t size, int fill = 0) {
  return start + std::string(size - start.size(), static_cast<char>(fill));
}

const std::string kHalf = bytes({0x00, 0x38}), kOne = bytes({0x00, 0x3C}), kMinusOne = bytes({0x00, 0xBC});

TEST(GgufBlocks, OfThirtyTwo) {
  auto y = values_of(GgufType::kQ8_0, filled(kHalf + bytes({0x80, 0x7F}), 34));
  EXPECT_EQ(y[0], -64.0F);
  EXPECT_EQ(y[1], 63.5F);
  y = values_of(GgufType::kQ4_0, filled(kHalf + bytes({0x9F}), 18));
  EXPECT_EQ(y[0], 3.5F);
  EXPECT_EQ(y[16], 0.5F);
  y = values_of(GgufType::kQ4_1, filled(kHalf + kMinusOne + bytes({0x9F}), 20));
  EXPECT_EQ(y[0], 6.5F);
  EXPECT_EQ(y[16], 3.5F);
  y = values_of(GgufType::kQ5_0, filled(kHalf + bytes({1, 0, 1, 0, 0x9F}), 22));
  EXPECT_EQ(y[0], 7.5F);
  EXPECT_EQ(y[16], 4.5F);
  EXPECT_EQ(y[1], -8.0F);
  y = values_of(GgufType::kQ5_1, filled(kHalf + kMinusOne + bytes({1, 0, 1, 0, 0x9F}), 24));
  EXPECT_EQ(y[0], 14.5F);
  EXPECT_EQ(y[16], 11.5F);
  EXPECT_EQ(y[1], -1.0F);
  y = values_of(GgufType::kIq4Nl, filled(kOne + bytes({0x80}), 18));
  EXPECT_EQ(y[0], -127.0F);
  EXPECT_EQ(y[16], 1.0F);
}

TEST(GgufBlocks, OfTwoHundredFiftySix) {
  const std::string scales = bytes({0x41, 0x82, 0xC3, 0xC4, 0x45, 0x86, 0xC7, 0xC8, 0x01, 0x12, 0x23, 0xEF});
  const float q4[] = {-1.5F, 1, -0.5F, 4, 9, 51.5F, 26, 95}, q5[] = {14.5F, 1, -0.5F, 4, 9, 51.5F, 26, 95};
  auto y = values_of(GgufType::kQ4_K, filled(kOne + kHalf + scales, 144, 0x21));
  auto z = values_of(GgufType::kQ5_K, filled(filled(kOne + kHalf + scales, 48, 0x01), 176, 0x21));
  for (size_t i = 0; i < 256; ++i) {
    EXPECT_EQ(y[i], q4[i / 32]) << i;
    EXPECT_EQ(z[i], q5[i / 32]) << i;
  }
  std::string q6 = filled(filled("", 128, 0x21), 192, 0xE4);
  for (int i = 1; i <= 16; ++i) q6 += static_cast<char>(i);
  y = values_of(GgufType::kQ6_K, q6 + kOne);
  const float runs[] = {-31, -62, -45, -60, 10, 12, 126, 144, -279, -310, -165, -180, 26, 28, 270, 288};
  for (size_t i = 0; i < 256; ++i) EXPECT_EQ(y[i], runs[i / 16]) << i;
}

TEST(GgufBlocks, Numbers) {
  EXPECT_EQ(values_of(GgufType::kBF16, bytes({0xC0, 0x3F}))[0], 1.5F);
  EXPECT_EQ(values_of(GgufType::kF16, bytes({0x00, 0x3E}))[0], 1.5F);
  EXPECT_EQ(values_of(GgufType::kF64, GgufBytes::raw(0.25))[0], 0.25F);
  EXPECT_THROW(values_of(GgufType::kI32, std::string(4, '\0')), Error);
}

TEST(GgufBlocks, EveryHalf) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const int exponent = static_cast<int>(half >> 10 & 31), mantissa = static_cast<int>(half & 1023);
    const double sign = half >> 15 != 0 ? -1.0 : 1.0;
    const float value = detail::half_to_float(static_cast<uint16_t>(half));
    if (exponent == 31) {
      EXPECT_TRUE(mantissa == 0 ? std::isinf(value) : std::isnan(value)) << half;
    } else {
      const double wanted =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      EXPECT_EQ(value, sign * wanted) << half;
    }
    EXPECT_EQ(std::signbit(value), sign < 0) << half;
  }
}

// Every factor of a block can make it infinite, and nothing else can.
TEST(GgufBlocks, FinitenessIsThatOfTheValues) {
  for (int32_t id = 0; id < 64; ++id) {
    const GgufTypeInfo* info = find_gguf_type(id);
    if (info == nullptr || !info->is_real) continue;
    for (int64_t at = 0; at < info->bytes; ++at) {
      for (const int byte : {0x7C, 0xFC, 0x7F, 0xFF, 0x80}) {
        std::string block(static_cast<size_t>(info->bytes), '\x11');
        block[static_cast<size_t>(at)] = static_cast<char>(byte);
        if (at > 0 && byte >= 0x7F) block[static_cast<size_t>(at) - 1] = '\xF0';
        bool is_finite = true;
        for (const float value : values_of(info->type, block)) is_finite = is_finite && std::isfinite(value);
        EXPECT_EQ(blocks_are_finite(info->type, reinterpret_cast<const std::byte*>(block.data()), 1),
                  is_finite)
            << info->name << " byte " << at << " is " << byte;
      }
    }
  }
}

}  // namespace
}  // namespace msplora
