#include "msplora/core/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace msplora {
namespace {

// Known answers published with the Random123 library (kat_vectors, philox4x32 10 rounds).
TEST(Philox, KnownAnswers) {
  const std::array<uint32_t, 4> zero = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  EXPECT_EQ(philox4x32(0, 0, 0), zero);
  const std::array<uint32_t, 4> ones = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
  EXPECT_EQ(philox4x32(~0ull, ~0ull, ~0ull), ones);
  const std::array<uint32_t, 4> pi = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
  EXPECT_EQ(philox4x32(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull), pi);
}

AesBlock block(uint64_t first, uint64_t second) {
  AesBlock bytes{};
  for (size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<uint8_t>(first >> (56 - 8 * i));
    bytes[8 + i] = static_cast<uint8_t>(second >> (56 - 8 * i));
  }
  return bytes;
}

// The rounds of the worked example in FIPS 197, appendix B.
TEST(Aes, RoundsOfTheStandard) {
  EXPECT_EQ(
      aes_round(block(0x193de3bea0f4e22b, 0x9ac68d2ae9f84808), block(0xa0fafe1788542cb1, 0x23a339392a6c7605)),
      block(0xa49c7ff2689f352b, 0x6b5bea43026a5049));
  EXPECT_EQ(
      aes_round(block(0xeb40f21e592e3884, 0x8ba113e71bc342d2), block(0xd014f9a8c9ee2589, 0xe13f0cc8b6630ca6),
                /*is_last=*/true),
      block(0x3925841d02dc09fb, 0xdc118597196a0b32));
}

// Bits and bytes of consecutive counters, and of neighbouring keys, look independent.
TEST(Ars, NumbersAreUniformAndIndependent) {
  constexpr int kCounters = 20000;
  std::array<int, 256> counts{};
  int64_t same_key = 0, other_key = 0;
  for (int i = 0; i < kCounters; ++i) {
    const AesBlock a = ars(5, static_cast<uint64_t>(i)), b = ars(5, static_cast<uint64_t>(i) + 1),
                   c = ars(5 ^ (1ull << (i % 64)), static_cast<uint64_t>(i));
    for (size_t k = 0; k < 16; ++k) {
      ++counts[a[k]];
      same_key += __builtin_popcount(a[k] ^ b[k]);
      other_key += __builtin_popcount(a[k] ^ c[k]);
    }
  }
  double chi_square = 0;
  const double expected = kCounters * 16.0 / 256;
  for (const int count : counts) chi_square += (count - expected) * (count - expected) / expected;
  EXPECT_LT(chi_square, 255 + 5 * std::sqrt(2 * 255.0));
  const double bits = kCounters * 128.0, deviation = 5 * std::sqrt(bits) / 2;
  EXPECT_NEAR(static_cast<double>(same_key), bits / 2, deviation);
  EXPECT_NEAR(static_cast<double>(other_key), bits / 2, deviation);
}

TEST(RandomStream, NamesGiveDifferentStreamsAndSeedsRepeat) {
  RandomStream a(1, "x"), b(1, "y"), c(1, "x");
  const uint64_t first = a.next_u64();
  EXPECT_NE(first, b.next_u64());
  EXPECT_EQ(first, c.next_u64());
}

TEST(RandomStream, MomentsAreRight) {
  RandomStream stream(7);
  double sum = 0, squares = 0, normal_squares = 0;
  const int n = 200000;
  for (int i = 0; i < n; ++i) {
    const double u = stream.uniform();
    sum += u;
    squares += u * u;
    const double z = stream.normal();
    normal_squares += z * z;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.005);
  EXPECT_NEAR(squares / n, 1.0 / 3.0, 0.005);
  EXPECT_NEAR(normal_squares / n, 1.0, 0.02);
}

}  // namespace
}  // namespace msplora
