#include "tokenizers/byte_pieces.h"

#include <gtest/gtest.h>

#include <string>

namespace msplora {
namespace {

TEST(BytePieces, NamesAreReadBack) {
  for (int byte = 0; byte < 256; ++byte)
    EXPECT_EQ(detail::byte_of_piece(detail::byte_piece(static_cast<uint8_t>(byte))), byte);
  EXPECT_EQ(detail::byte_piece(10), "<0x0A>");
  EXPECT_EQ(detail::byte_of_piece("<0x0a>"), 10);
}

TEST(BytePieces, OtherTokensAreNone) {
  for (const char* token :
       {"", "<0x>", "<0xZZ>", "<0x0Z>", "<0x-1>", "<0x+1>", "<0x 1>", "<0x0A", "<0x00A>", "<0X0A>", "a"})
    EXPECT_EQ(detail::byte_of_piece(token), -1) << token;
}

}  // namespace
}  // namespace msplora
