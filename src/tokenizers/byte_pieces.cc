#include "tokenizers/byte_pieces.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>

namespace msplora::detail {

std::string byte_piece(uint8_t byte) {
  std::array<char, 8> name{};
  std::snprintf(name.data(), name.size(), "<0x%02X>", static_cast<unsigned>(byte));
  return name.data();
}

int byte_of_piece(std::string_view token) {
  unsigned value = 0;
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
  const char* const end = token.data() + 5;
  return std::from_chars(token.data() + 3, end, value, 16).ptr == end ? static_cast<int>(value) : -1;
}

}  // namespace msplora::detail
