#include "report/text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdint>

namespace msplora::report {
namespace {

/// Calls `use(code point, its bytes)`; -1 for a byte that is no UTF-8.
template <class Use>
void for_each_character(std::string_view text, Use&& use) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t code = -1;
    const auto length = utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &code);
    const size_t taken = length > 0 ? static_cast<size_t>(length) : 1;
    use(length > 0 ? code : -1, text.substr(at, taken));
    at += taken;
  }
}

bool turns_direction(int32_t code) {
  return (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069) || code == 0x200E ||
         code == 0x200F || code == 0x061C;
}

/// What XML 1.0 does not hold in any form, and what would only be seen as disorder.
bool is_control(int32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || (code & 0xFFFE) == 0xFFFE;
}

/// In parts of the size, from DejaVu Sans.
double character_width(int32_t code) {
  if (code < 0) return 1.0;
  if (code >= '0' && code <= '9') return 0.64;
  if (code == '.' || code == ',' || code == '-') return 0.36;
  if (code < 0x80) {
    const char character = static_cast<char>(code);
    constexpr std::string_view kNarrow = "ijl:;'|!I /()[]", kLessWide = "frt\"*`{}\\",
                               kWide = "mwMW%@=+<>~#&";
    if (kNarrow.find(character) != std::string_view::npos) return 0.36;
    if (kLessWide.find(character) != std::string_view::npos) return 0.48;
    if (kWide.find(character) != std::string_view::npos) return 0.92;
    return character >= 'A' && character <= 'Z' ? 0.72 : 0.62;
  }
  if (code == 0x2212) return 0.84;  // minus
  if (code == 0xB9 || code == 0xB2 || code == 0xB3 || (code >= 0x2070 && code <= 0x207B))
    return 0.45;  // raised digits
  const int columns = utf8proc_charwidth(code);
  return columns == 0 ? 0.0 : columns >= 2 ? 1.05 : 0.75;
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for_each_character(text, [&](int32_t code, std::string_view bytes) {
    switch (code) {
      case '&':
        out += "&amp;";
        return;
      case '<':
        out += "&lt;";
        return;
      case '>':
        out += "&gt;";
        return;
      case '"':
        out += "&quot;";
        return;
      case '\'':
        out += "&#39;";
        return;
      default:
        break;
    }
    if (code < 0) {
      out += "\uFFFD";
    } else if (code == '\n' || code == '\t') {
      out += ' ';
    } else if (is_control(code) || turns_direction(code)) {
      out += code < 0x100 ? fmt::format("\\x{:02x}", code) : fmt::format("\\u{:04x}", code);
    } else {
      out += bytes;
    }
  });
  return out;
}

double text_width(std::string_view text, double size) {
  double width = 0.0;
  for_each_character(text, [&](int32_t code, std::string_view) { width += character_width(code); });
  return width * size;
}

std::string cut_to_width(std::string_view text, double width, double size) {
  if (text_width(text, size) <= width) return std::string(text);
  const double room = width - size;  // of the ellipsis
  std::string out;
  double used = 0.0;
  bool full = false;
  for_each_character(text, [&](int32_t code, std::string_view bytes) {
    used += character_width(code) * size;
    full = full || used > room;
    if (!full) out += bytes;
  });
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out + "…";
}

std::vector<std::string> wrapped(std::string_view text, double width, size_t lines, double size) {
  std::vector<std::string> out;
  while (!text.empty()) {
    if (text_width(text, size) <= width || out.size() + 1 == lines) {
      out.push_back(cut_to_width(text, width, size));
      break;
    }
    size_t end = std::string_view::npos;
    for (size_t space = text.find(' '); space != std::string_view::npos; space = text.find(' ', space + 1)) {
      if (text_width(text.substr(0, space), size) > width) break;
      end = space;
    }
    if (end == std::string_view::npos || end == 0) {  // one long word
      out.push_back(cut_to_width(text, width, size));
      break;
    }
    out.emplace_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  return out;
}

std::string with_commas(const std::string& number) {
  const size_t start = number.rfind('-', 0) == 0 ? 1 : 0, end = std::min(number.find('.'), number.size());
  std::string out;
  for (size_t i = 0; i < number.size(); ++i) {
    if (i > start && i < end && (end - i) % 3 == 0) out += ',';
    out += number[i];
  }
  return out;
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t at = 0; at < bytes.size(); at += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - at);
    uint32_t group = 0;
    for (size_t i = 0; i < 3; ++i) {
      group = group << 8 | (i < count ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    }
    for (size_t i = 0; i < 4; ++i) out += i <= count ? kDigits[group >> (18 - 6 * i) & 63] : '=';
  }
  return out;
}

}  // namespace msplora::report
