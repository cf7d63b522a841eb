#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Unicode properties and normalisation; the data comes from utf8proc. Every function here but valid_utf8
// expects well-formed UTF-8, which Tokenizer guarantees by passing all text through valid_utf8 first.

namespace msplora::detail {

enum CharClass : uint16_t {
  kLetter = 1,           // L*
  kNumber = 2,           // N*
  kSpace = 4,            // White_Space
  kPunctuation = 8,      // P*, and the ASCII symbols that BERT counts as punctuation
  kWord = 16,            // \w of Rust's regex crate: Alphabetic, marks, Nd, Pc, join controls
  kMarkNonspacing = 32,  // Mn
  kMark = 64,            // M*
  kOther = 128,          // Cc, Cf, Co
};

/// Bit set of CharClass of one code point.
uint16_t char_class_slow(char32_t c);

/// Classes of U+0000..U+FFFF, built once.
const std::vector<uint16_t>& bmp_classes();

inline uint16_t char_class(const std::vector<uint16_t>& bmp, char32_t c) {
  return c < 0x10000 ? bmp[c] : char_class_slow(c);
}

/// Reads the code point at `p` and moves `p` behind it.
inline char32_t next_code_point(const char*& p) {
  const auto byte = [&p](int i) { return static_cast<char32_t>(static_cast<unsigned char>(p[i])); };
  const char32_t first = byte(0);
  if (first < 0x80) return p += 1, first;
  if (first < 0xE0) {
    const char32_t c = (first & 0x1F) << 6 | (byte(1) & 0x3F);
    return p += 2, c;
  }
  if (first < 0xF0) {
    const char32_t c = (first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    return p += 3, c;
  }
  const char32_t c = (first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  return p += 4, c;
}

inline bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

/// Bytes of the code point that starts with `first`.
inline size_t utf8_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// The code point that ends right before `end`.
inline char32_t code_point_before(const char* end) {
  const char* p = end - 1;
  while (is_continuation(*p)) --p;
  return next_code_point(p);
}

size_t count_code_points(std::string_view text);
void append_utf8(std::string& out, char32_t c);
bool is_ascii(std::string_view text);

/// What becomes one U+FFFD: every maximal ill-formed part, as the Unicode standard recommends, or every byte
/// that is no part of a character.
enum class Repair { kParts, kBytes };

/// `text` itself when it is well-formed; else a repaired copy in `buffer`.
std::string_view valid_utf8(std::string_view text, std::string& buffer, Repair repair = Repair::kParts);

/// Bytes of the character that `text` begins with; 0 when it does not begin with one.
size_t well_formed_size(std::string_view text);
/// Bytes of `text` without an unfinished character at its end that further bytes could complete.
size_t finished_size(std::string_view text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
void append_normalized(std::string& out, std::string_view text, NormalForm form);

/// The same, and how each character came about: 0, one for one; positive, besides the one before; -n, one for
/// n + 1.
std::vector<std::pair<char32_t, int>> normalized_changes(std::string_view text, NormalForm form);

/// Full lower case without context rules (final sigma stays an ordinary one).
void append_lowercase(std::string& out, char32_t c);

/// The printable characters that GPT-2's byte-level alphabet gives to the 256 bytes.
const std::array<char32_t, 256>& byte_level_alphabet();

/// The byte of a character of that alphabet, or -1.
int byte_of_alphabet(char32_t c);

}  // namespace msplora::detail
