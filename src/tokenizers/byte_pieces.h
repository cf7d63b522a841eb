#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace msplora::detail {

/// The token that stands for a byte, as vocabularies spell it: <0x0A>.
std::string byte_piece(uint8_t byte);

/// The byte that a token of the form <0x0A> stands for, in either case of letters, as Hugging Face's decoder
/// reads it; -1 for any other token.
int byte_of_piece(std::string_view token);

}  // namespace msplora::detail
