#include "templates/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "templates/budget.h"

namespace msplora::templates {
namespace {

constexpr char32_t kIotaBelow = 0x345, kCapitalIota = 0x399, kSharpS = 0xDF;
constexpr size_t kWorkOfACapital = 64;  // where a letter has to be taken apart for it

/// Of the first character.
size_t length_of_first(std::string_view text) {
  if (text.empty()) return 0;
  if (static_cast<unsigned char>(text[0]) < 0x80) return 1;
  utf8proc_int32_t c = 0;
  const auto read = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                     static_cast<utf8proc_ssize_t>(text.size()), &c);
  return read > 0 ? static_cast<size_t>(read) : 1;
}

utf8proc_category_t category(std::string_view character) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point(character)));
}

std::vector<char32_t> decomposed(char32_t c) {
  utf8proc_int32_t parts[32];
  int boundary = 0;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32, options, &boundary);
  std::vector<char32_t> all;
  for (utf8proc_ssize_t i = 0; i < std::min<utf8proc_ssize_t>(count, 32); ++i)
    all.push_back(static_cast<char32_t>(parts[i]));
  return all;
}

char32_t simple_upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}

/// Some letters have no capital of their own and become several: the sharp s, and those that decompose into
/// letters that have one (ligatures, letters with marks). An iota below becomes one beside.
void append_upper(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
    return;
  }
  if (c == kSharpS) {
    out += "SS";
    return;
  }
  Budget::charge(kWorkOfACapital);
  const std::vector<char32_t> parts = decomposed(c);
  const bool has_iota = std::find(parts.begin(), parts.end(), kIotaBelow) != parts.end();
  const bool is_lower = utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_LL;
  if (!has_iota && (!is_lower || simple_upper(c) != c || parts.size() < 2))
    return append_character(out, simple_upper(c));
  std::string marked;
  for (const char32_t part : parts) {
    if (part != kIotaBelow) append_character(marked, simple_upper(part));
  }
  utf8proc_uint8_t* composed = utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(marked.c_str()));
  if (composed != nullptr) {
    out += reinterpret_cast<const char*>(composed);
    std::free(composed);
  }
  if (has_iota) append_character(out, kCapitalIota);
}

void append_lower(std::string& out, char32_t c) {
  constexpr char32_t kCapitalIDot = 0x130;
  if (c == kCapitalIDot) {
    out += "i\xCC\x87";
    return;
  }
  append_character(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

void append_title(std::string& out, char32_t c) {
  const auto titled = static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
  if (titled != c) return append_character(out, titled);
  append_upper(out, c);
}

}  // namespace

void Characters::iterator::read() {
  size_ = length_of_first(rest_);
}

std::string_view first_character(std::string_view text) {
  return text.substr(0, length_of_first(text));
}

// No character begins inside of a well-formed one, so that one which ends the text is its last.
std::string_view last_character(std::string_view text) {
  for (size_t size = std::min<size_t>(4, text.size()); size > 1; --size) {
    const std::string_view end = text.substr(text.size() - size);
    if (length_of_first(end) == size) return end;
  }
  return text.substr(text.size() - std::min<size_t>(1, text.size()));
}

size_t count_characters(std::string_view text) {
  size_t count = 0;
  for (; !text.empty(); text.remove_prefix(length_of_first(text))) ++count;
  return count;
}

size_t place_of_character(std::string_view text, size_t index) {
  const size_t size = text.size();
  for (; index > 0 && !text.empty(); --index) text.remove_prefix(length_of_first(text));
  return size - text.size();
}

void append_character(std::string& out, char32_t c) {
  utf8proc_uint8_t bytes[4];
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
}

char32_t code_point(std::string_view character) {
  utf8proc_int32_t c = 0;
  const auto read = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(character.data()),
                                     static_cast<utf8proc_ssize_t>(character.size()), &c);
  return read > 0 ? static_cast<char32_t>(c) : 0xFFFD;
}

bool is_space(std::string_view character) {
  const char32_t c = code_point(character);
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
  if (c == 0x85) return true;
  const auto found = category(character);
  return found == UTF8PROC_CATEGORY_ZS || found == UTF8PROC_CATEGORY_ZL || found == UTF8PROC_CATEGORY_ZP;
}

bool is_letter(std::string_view character) {
  const auto found = category(character);
  return found >= UTF8PROC_CATEGORY_LU && found <= UTF8PROC_CATEGORY_LO;
}
bool is_digit(std::string_view character) {
  return category(character) == UTF8PROC_CATEGORY_ND;
}
bool is_upper(std::string_view character) {
  return category(character) == UTF8PROC_CATEGORY_LU;
}
bool is_lower(std::string_view character) {
  return category(character) == UTF8PROC_CATEGORY_LL;
}

std::string upper(std::string_view text) {
  Budget::charge(text.size());
  std::string out;
  for (const std::string_view c : characters(text)) append_upper(out, code_point(c));
  return out;
}

std::string lower(std::string_view text) {
  Budget::charge(text.size());
  std::string out;
  for (const std::string_view c : characters(text)) append_lower(out, code_point(c));
  return out;
}

std::string capitalized(std::string_view text) {
  Budget::charge(text.size());
  std::string out;
  bool is_first = true;
  for (const std::string_view c : characters(text)) {
    if (is_first) {
      append_title(out, code_point(c));
    } else {
      append_lower(out, code_point(c));
    }
    is_first = false;
  }
  return out;
}

std::string titled(std::string_view text) {
  Budget::charge(text.size());
  std::string out;
  bool is_in_word = false;
  for (const std::string_view c : characters(text)) {
    if (is_in_word) {
      append_lower(out, code_point(c));
    } else {
      append_title(out, code_point(c));
    }
    is_in_word = is_letter(c);
  }
  return out;
}

std::string_view stripped(std::string_view text, bool left, bool right, std::string_view set) {
  Budget::charge(16 * set.size());
  const Characters all(set);
  std::vector<std::string_view> members(all.begin(), all.end());
  std::sort(members.begin(), members.end());
  const auto goes = [&](std::string_view c) {
    Budget::charge(1);
    return set.empty() ? is_space(c) : std::binary_search(members.begin(), members.end(), c);
  };
  while (left && !text.empty() && goes(first_character(text)))
    text.remove_prefix(first_character(text).size());
  while (right && !text.empty() && goes(last_character(text)))
    text.remove_suffix(last_character(text).size());
  return text;
}

}  // namespace msplora::templates
