#include "tokenizers/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace msplora::detail {
namespace {

bool is_ascii_punctuation(char32_t c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

// Length of the well-formed sequence at `p`, or minus the length of the maximal ill-formed part there.
int sequence_length(const unsigned char* p, const unsigned char* end) {
  const unsigned char first = *p;
  if (first < 0x80) return 1;
  int length = 0;
  unsigned char low = 0x80, high = 0xBF;  // allowed range of the second byte
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return -1;
  }
  for (int i = 1; i < length; ++i) {
    if (p + i >= end || p[i] < low || p[i] > high) return -i;
    low = 0x80;
    high = 0xBF;
  }
  return length;
}

// The first byte at or after `p` that is not ASCII.
const unsigned char* skip_ascii(const unsigned char* p, const unsigned char* end) {
  constexpr uint64_t kHighBits = 0x8080808080808080ULL;
  while (end - p >= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    if (word & kHighBits) break;
    p += 8;
  }
  while (p < end && *p < 0x80) ++p;
  return p;
}

// Canonical order: marks between two starters by their combining class, equal ones as they stand. utf8proc's
// own way takes the square of their number.
void order_marks(std::vector<utf8proc_int32_t>& points) {
  const auto marks_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  const auto is_starter = [&](utf8proc_int32_t c) { return marks_class(c) == 0; };
  for (auto at = points.begin(); at != points.end();) {
    const auto begin = std::find_if_not(at, points.end(), is_starter);
    at = std::find_if(begin, points.end(), is_starter);
    const auto less = [&](auto a, auto b) { return marks_class(a) < marks_class(b); };
    if (!std::is_sorted(begin, at, less)) std::stable_sort(begin, at, less);
  }
}

}  // namespace

uint16_t char_class_slow(char32_t c) {
  uint16_t bits = 0;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      bits = kLetter | kWord;
      break;
    case UTF8PROC_CATEGORY_MN:
      bits = kMarkNonspacing | kMark | kWord;
      break;
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      bits = kMark | kWord;
      break;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
      bits = kNumber | kWord;
      break;
    case UTF8PROC_CATEGORY_NO:
      bits = kNumber;
      break;
    case UTF8PROC_CATEGORY_PC:
      bits = kPunctuation | kWord;
      break;
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      bits = kPunctuation;
      break;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      bits = kSpace;
      break;
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO:
      bits = kOther;
      break;
    default:
      break;
  }
  if ((c >= 0x9 && c <= 0xD) || c == 0x85) bits |= kSpace;
  if (c == 0x200C || c == 0x200D) bits |= kWord;
  // Circled, squared and negative letters are Alphabetic.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
      (c >= 0x1F170 && c <= 0x1F189)) {
    bits |= kWord;
  }
  if (is_ascii_punctuation(c)) bits |= kPunctuation;
  return bits;
}

const std::vector<uint16_t>& bmp_classes() {
  static const std::vector<uint16_t> classes = [] {
    std::vector<uint16_t> table(0x10000);
    for (char32_t c = 0; c < 0x10000; ++c) table[c] = char_class_slow(c);
    return table;
  }();
  return classes;
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (const char byte : text) count += !is_continuation(byte);
  return count;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
    return;
  }
  char bytes[4];
  size_t size = 0;
  if (c < 0x800) {
    bytes[size++] = static_cast<char>(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      bytes[size++] = static_cast<char>(0xE0 | c >> 12);
    } else {
      bytes[size++] = static_cast<char>(0xF0 | c >> 18);
      bytes[size++] = static_cast<char>(0x80 | (c >> 12 & 0x3F));
    }
    bytes[size++] = static_cast<char>(0x80 | (c >> 6 & 0x3F));
  }
  bytes[size++] = static_cast<char>(0x80 | (c & 0x3F));
  out.append(bytes, size);
}

bool is_ascii(std::string_view text) {
  const auto* begin = reinterpret_cast<const unsigned char*>(text.data());
  return skip_ascii(begin, begin + text.size()) == begin + text.size();
}

std::string_view valid_utf8(std::string_view text, std::string& buffer, Repair repair) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const auto* end = p + text.size();
  const unsigned char* copied = p;  // everything before it is in the buffer, once there is one
  bool replaced = false;
  while ((p = skip_ascii(p, end)) < end) {
    int length = sequence_length(p, end);
    if (length > 0) {
      p += length;
      continue;
    }
    if (repair == Repair::kBytes) length = -1;
    if (!replaced) buffer.clear();
    replaced = true;
    buffer.append(reinterpret_cast<const char*>(copied), static_cast<size_t>(p - copied));
    buffer.append("\xEF\xBF\xBD");
    p -= length;
    copied = p;
  }
  if (!replaced) return text;
  buffer.append(reinterpret_cast<const char*>(copied), static_cast<size_t>(end - copied));
  return buffer;
}

size_t well_formed_size(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  return text.empty() ? 0 : static_cast<size_t>(std::max(0, sequence_length(p, p + text.size())));
}

size_t finished_size(std::string_view text) {
  const auto* begin = reinterpret_cast<const unsigned char*>(text.data());
  const auto* end = begin + text.size();
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    if (is_continuation(text[text.size() - back])) continue;
    // A lead byte: unfinished when nothing is wrong up to the end.
    const int length = sequence_length(end - back, end);
    const bool is_lead = static_cast<unsigned char>(text[text.size() - back]) >= 0xC2 &&
                         static_cast<unsigned char>(text[text.size() - back]) <= 0xF4;
    return is_lead && length == -static_cast<int>(back) ? text.size() - back : text.size();
  }
  return text.size();
}

void append_normalized(std::string& out, std::string_view text, NormalForm form) {
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  int options = UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  const auto flags = static_cast<utf8proc_option_t>(options);
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  std::array<utf8proc_int32_t, 32> part{};  // Unicode's longest decomposition has 18
  for (const char *p = text.data(), *end = p + text.size(); p < end;) {
    const auto size = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(next_code_point(p)), part.data(),
                                              part.size(), flags, nullptr);
    points.insert(points.end(), part.begin(), part.begin() + size);
  }
  order_marks(points);
  auto size = static_cast<utf8proc_ssize_t>(points.size());
  if (compose) size = utf8proc_normalize_utf32(points.data(), size, flags);
  for (utf8proc_ssize_t i = 0; i < size; ++i)
    append_utf8(out, static_cast<char32_t>(points[static_cast<size_t>(i)]));
}

std::vector<std::pair<char32_t, int>> normalized_changes(std::string_view text, NormalForm form) {
  using Change = std::pair<char32_t, int>;
  const auto marks_class = [](char32_t c) {
    return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
  };
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  std::vector<Change> points;
  std::array<utf8proc_int32_t, 32> part{};
  for (const char *p = text.data(), *end = p + text.size(); p < end;) {
    const auto size = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(next_code_point(p)), part.data(),
                                              part.size(), static_cast<utf8proc_option_t>(options), nullptr);
    for (utf8proc_ssize_t i = 0; i < size; ++i)
      points.emplace_back(static_cast<char32_t>(part[static_cast<size_t>(i)]), i > 0);
  }
  const auto is_starter = [&](const Change& c) { return marks_class(c.first) == 0; };
  for (auto at = points.begin(); at != points.end();) {
    const auto begin = std::find_if_not(at, points.end(), is_starter);
    at = std::find_if(begin, points.end(), is_starter);
    std::stable_sort(begin, at, [&](const Change& a, const Change& b) {
      return marks_class(a.first) < marks_class(b.first);
    });
  }
  if (!compose) return points;
  // A character joins the last starter unless something of the same or a higher class, or a starter, is
  // between them.
  std::vector<Change> result;
  size_t starter = points.size();
  int last_class = -1;  // of what is kept behind the starter
  for (const Change& point : points) {
    const int own_class = marks_class(point.first);
    if (starter < points.size() && last_class < own_class) {
      std::array<utf8proc_int32_t, 2> pair = {static_cast<utf8proc_int32_t>(result[starter].first),
                                              static_cast<utf8proc_int32_t>(point.first)};
      if (utf8proc_normalize_utf32(pair.data(), 2,
                                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE)) == 1) {
        result[starter].first = static_cast<char32_t>(pair[0]);
        result[starter].second += point.second - 1;
        continue;
      }
    }
    if (own_class == 0) {
      starter = result.size();
      last_class = -1;
    } else {
      last_class = own_class;
    }
    result.push_back(point);
  }
  return result;
}

void append_lowercase(std::string& out, char32_t c) {
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  // utf8proc maps one character to one; this is the only one whose full lower case has two.
  if (c == 0x130) append_utf8(out, 0x307);
}

const std::array<char32_t, 256>& byte_level_alphabet() {
  static const std::array<char32_t, 256> alphabet = [] {
    std::array<char32_t, 256> table{};
    char32_t next = 256;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
      table[byte] = printable ? byte : next++;
    }
    return table;
  }();
  return alphabet;
}

int byte_of_alphabet(char32_t c) {
  static const std::vector<int16_t> inverse = [] {
    std::vector<int16_t> table(512, -1);
    for (int byte = 0; byte < 256; ++byte) {
      table[byte_level_alphabet()[static_cast<size_t>(byte)]] = static_cast<int16_t>(byte);
    }
    return table;
  }();
  return c < inverse.size() ? inverse[c] : -1;
}

}  // namespace msplora::detail
