#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "gguf/blocks.h"
#include "gguf/gguf_bytes.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/gguf/file.h"
#include "msplora/gguf/quantise.h"
#include "msplora/gguf/writer.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string blocks_of(GgufType type, const std::vector<float>& values) {
  std::string blocks(static_cast<size_t>(gguf_bytes(type, static_cast<int64_t>(values.size()))), '\0');
  quantise(type, values.data(), static_cast<int64_t>(values.size()),
           reinterpret_cast<std::byte*>(blocks.data()));
  return blocks;
}

uint16_t half_of(float value) {
  uint16_t half = 0;
  std::memcpy(&half, blocks_of(GgufType::kF16, {value}).data(), sizeof half);
  return half;
}

uint16_t bfloat16_of(float value) {
  uint16_t bits = 0;
  std::memcpy(&bits, blocks_of(GgufType::kBF16, {value}).data(), sizeof bits);
  return bits;
}

// Where the block's factor is too small for its inverse, and where it becomes 0 as a half: as ggml writes
// them.
TEST(GgufQuantise, BlocksOfVerySmallValues) {
  std::vector<float> values(32, 0.0F);
  values[1] = 1e-40F;
  values[2] = -1.4e-45F;
  EXPECT_EQ(blocks_of(GgufType::kQ8_0, values), std::string(34, '\0'));
  values[1] = std::numeric_limits<float>::min();
  values[2] = -values[1] / 2;
  const std::string blocks = blocks_of(GgufType::kQ8_0, values);
  EXPECT_EQ(blocks.substr(0, 2), std::string(2, '\0'));
  values[1] = 1e-7F;
  values[2] = -0.5e-7F;
  const std::string small = blocks_of(GgufType::kQ8_0, values);
  EXPECT_EQ(small.substr(0, 2), std::string(2, '\0'));
  EXPECT_EQ(small[3], 127);
  EXPECT_EQ(small[4], -64);
}

TEST(GgufQuantise, EveryHalfAndWhatLiesBetweenTwo) {
  for (uint32_t half = 0; half < 0x7bff; ++half) {
    const float low = detail::half_to_float(static_cast<uint16_t>(half)),
                high = detail::half_to_float(static_cast<uint16_t>(half + 1)), middle = (low + high) / 2;
    ASSERT_EQ(half_of(low), half);
    ASSERT_EQ(half_of(-low), half | 0x8000U);
    ASSERT_EQ(half_of(middle), half % 2 == 0 ? half : half + 1) << half;  // to even
    ASSERT_EQ(half_of(std::nextafter(middle, 0.0F)), half);
    ASSERT_EQ(half_of(std::nextafter(middle, 1e9F)), half + 1);
  }
  EXPECT_EQ(half_of(65504.0F), 0x7bff);
  EXPECT_EQ(half_of(std::nextafter(65520.0F, 0.0F)), 0x7bff);
  EXPECT_THROW(half_of(65520.0F), Error);
}

TEST(GgufQuantise, BFloat16RoundsToEven) {
  EXPECT_EQ(bfloat16_of(1.5F), 0x3FC0);
  EXPECT_EQ(bfloat16_of(1.0F + 0x1p-8F), 0x3F80);      // half way, down to even
  EXPECT_EQ(bfloat16_of(1.0F + 0x1.8p-7F), 0x3F82);    // half way, up to even
  EXPECT_EQ(bfloat16_of(-1.0F - 0x1.01p-8F), 0xBF81);  // beyond
  EXPECT_THROW(bfloat16_of(std::numeric_limits<float>::max()), Error);
}

TEST(GgufQuantise, BlocksOfEightBits) {
  std::vector<float> values(64, 0.0F);
  values[0] = -63.5F;  // of 127 steps of 0.5
  values[1] = 0.25F;   // halves go away from zero
  values[2] = -0.25F;
  values[3] = 63.5F;
  const std::string blocks = blocks_of(GgufType::kQ8_0, values);
  ASSERT_EQ(blocks.size(), 68U);
  EXPECT_EQ(blocks.substr(0, 6), std::string("\x00\x38\x81\x01\xff\x7f", 6));
  EXPECT_EQ(blocks.substr(6), std::string(62, '\0'));  // a block of zeros has the factor 0
}

TEST(GgufQuantise, WhatIsNotWrittenIsSaid) {
  EXPECT_THROW(blocks_of(GgufType::kQ4_K, std::vector<float>(256)), Error);
  for (const GgufType type : {GgufType::kF32, GgufType::kF16, GgufType::kBF16, GgufType::kQ8_0}) {
    std::vector<float> values(32, 1.0F);
    values[7] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_THROW(blocks_of(type, values), Error);
  }
  EXPECT_EQ(fitting_type(GgufType::kQ8_0, 64), GgufType::kQ8_0);
  EXPECT_EQ(fitting_type(GgufType::kQ8_0, 33), GgufType::kF16);
}

class GgufWriting : public ::testing::Test {
 protected:
  static GgufRows numbers(float first) {
    return [first](int64_t begin, int64_t end, float* values) {
      for (int64_t i = 3 * begin; i < 3 * end; ++i) *values++ = first + static_cast<float>(i);
    };
  }

  fs::path path() const { return directory_ / "x.gguf"; }
  TemporaryDirectory directory_;
};

/// The bytes of a file that was put together from the format's description alone.
TEST_F(GgufWriting, EveryKindOfKeyAndTensor) {
  GgufWriter writer;
  writer.set("general.architecture", "wrong");
  writer.set_integer("a.count", 7);
  writer.set_number("a.eps", 1e-5);
  writer.set_flag("a.flag", true);
  writer.set_texts("a.texts", {"one", "", "three"});
  writer.set_numbers("a.numbers", {0.5F, -1.0F});
  writer.set_integers("a.integers", {1, -2});
  writer.set("general.architecture", "llama");  // replaced where it stands
  writer.add("m", GgufType::kF32, {2, 3}, numbers(0));
  writer.add("v", GgufType::kF16, {3}, numbers(1));
  writer.write(path());

  std::string m, v;
  for (int i = 0; i < 6; ++i) m += GgufBytes::raw(static_cast<float>(i));
  for (const uint16_t half : {0x3C00, 0x4000, 0x4200}) v += GgufBytes::raw(half);
  GgufBytes expected;
  expected.string("general.architecture", "llama")
      .u32("a.count", 7)
      .f32("a.eps", 1e-5F)
      .flag("a.flag", true)
      .strings("a.texts", {"one", "", "three"})
      .array<float>("a.numbers", 6, {0.5F, -1.0F})
      .array<int32_t>("a.integers", 5, {1, -2})
      .tensor("m", {3, 2}, 0, m)
      .tensor("v", {3}, 1, v);
  EXPECT_EQ(read_file(path()), expected.bytes());
}

TEST_F(GgufWriting, KeysAreCopiedAsTheyAre) {
  GgufBytes source;
  source.string("t.text", "x")
      .strings("t.texts", {"ab", "c"})
      .array<uint8_t>("t.bytes", 0, {1, 2, 3})
      .key("t.wide", 11, GgufBytes::raw<int64_t>(-5))
      .tensor("m", {1}, 0, GgufBytes::raw(1.0F));
  source.write(directory_ / "source.gguf");
  const auto file = GgufFile::open(directory_ / "source.gguf");
  GgufWriter writer;
  for (const char* key : {"t.text", "t.texts", "t.bytes", "t.wide", "t.absent"}) writer.copy(*file, key);
  writer.add("m", GgufType::kF32, {1}, [](int64_t, int64_t, float* values) { *values = 1.0F; });
  writer.write(path());
  EXPECT_EQ(read_file(path()), read_file(directory_ / "source.gguf"));
}

TEST_F(GgufWriting, WrongTensorsAreRefused) {
  GgufWriter writer;
  const auto problem = [&](const std::string& name, GgufType type, const std::vector<int64_t>& shape) {
    try {
      writer.add(name, type, shape, numbers(0));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(problem("m", GgufType::kF32, {2, 3}), "");
  EXPECT_THAT(problem("m", GgufType::kF32, {2, 3}), HasSubstr("written twice"));
  EXPECT_THAT(problem(std::string(64, 'x'), GgufType::kF32, {2, 3}), HasSubstr("1 to 63 bytes"));
  EXPECT_THAT(problem("b", GgufType::kQ8_0, {2, 33}), HasSubstr("not whole blocks of Q8_0"));
  EXPECT_THAT(problem("c", GgufType::kF32, {}), HasSubstr("1 to 4 dimensions"));
  EXPECT_THAT(problem("d", GgufType::kF32, {2, 0}), HasSubstr("none of them 0"));
  EXPECT_THROW(writer.set_integer("a", -1), Error);
}

/// A value that does not fit names its tensor, and the file that was there stays.
TEST_F(GgufWriting, NothingIsLeftOfAFileThatFailed) {
  write_file_atomically(path(), "before");
  GgufWriter writer;
  writer.add("big", GgufType::kF16, {1}, [](int64_t, int64_t, float* values) { *values = 1e6F; });
  try {
    writer.write(path());
    FAIL() << "a value of 1e6 was written as F16";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("big"));
  }
  EXPECT_EQ(read_file(path()), "before");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_.path()), {}), 1);
}

}  // namespace
}  // namespace msplora
