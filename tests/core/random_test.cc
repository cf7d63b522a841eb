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
