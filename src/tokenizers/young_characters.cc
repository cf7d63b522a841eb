#include "tokenizers/young_characters.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/oniguruma_sets.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

struct Young {
  std::string_view name;
  std::string_view ranges;  // "1C8A A7CD-A7CF", hexadecimal, with both ends
};

// The characters that were assigned, by general category, and one that changed it (U+1171E).
constexpr Young kCategories[] = {
    {"Lu", "1C89 A7CB-A7CC A7DA A7DC 10D50-10D65"},
    {"Ll", "1C8A A7CD A7DB 10D70-10D85 1DF25-1DF2A"},
    {"Lm", "10D4E 10D6F 16D40-16D42 16D6B-16D6C 1E030-1E06D 1E4EB"},
    {"Lo",
     "105C0-105F3 10D4A-10D4D 10D4F 10EC2-10EC4 1123F-11240 11380-11389 1138B 1138E "
     "11390-113B5 113B7 113D1 113D3 11BC0-11BE0 11F02 11F04-11F10 11F12-11F33 1342F "
     "13441-13446 13460-143FA 16100-1611D 16D43-16D6A 18CFF 1B132 1B155 1E4D0-1E4EA "
     "1E5D0-1E5ED 1E5F0 2B739 2EBF0-2EE5D 31350-323AF"},
    {"Mn",
     "897 ECE 10D69-10D6D 10EFC-10EFF 11241 113BB-113C0 113CE 113D0 113D2 113E1-113E2 "
     "11F00-11F01 11F36-11F3A 11F40 11F42 11F5A 13440 13447-13455 1611E-16129 1612D-1612F "
     "1E08F 1E4EC-1E4EF 1E5EE-1E5EF"},
    {"Mc",
     "CF3 113B8-113BA 113C2 113C5 113C7-113CA 113CC-113CD 113CF 1171E 11F03 11F34-11F35 "
     "11F3E-11F3F 11F41 1612A-1612C"},
    {"Nd",
     "10D40-10D49 116D0-116E3 11BF0-11BF9 11F50-11F59 16130-16139 16D70-16D79 1CCF0-1CCF9 "
     "1E4F0-1E4F9 1E5F1-1E5FA"},
    {"No", "1D2C0-1D2D3"},
    {"Pd", "10D6E"},
    {"Po", "1B4E-1B4F 1B7F 113D4-113D5 113D7-113D8 11B00-11B09 11BE1 11F43-11F4F 16D6D-16D6F 1E5FF"},
    {"Sm", "10D8E-10D8F"},
    {"So",
     "2427-2429 2FFC-2FFF 31E4-31E5 31EF 1CC00-1CCEF 1CD00-1CEB3 1F6DC 1F774-1F776 1F77B-1F77F "
     "1F7D9 1F8B2-1F8BB 1F8C0-1F8C1 1FA75-1FA77 1FA87-1FA89 1FA8F 1FAAD-1FAAF 1FABB-1FABF "
     "1FAC6 1FACE-1FACF 1FADA-1FADC 1FADF 1FAE8-1FAE9 1FAF7-1FAF8 1FBCB-1FBEF"},
    {"Cf", "13439-1343F"},
};

constexpr std::string_view kYoungEmoji =
    "1F6DC 1FA75-1FA77 1FA87-1FA89 1FA8F 1FAAD-1FAAF 1FABB-1FABF 1FAC6 1FACE-1FACF "
    "1FADA-1FADC 1FADF 1FAE8-1FAE9 1FAF7-1FAF8";

constexpr Young kProperties[] = {
    {"alphabetic",
     "363-36F 897 C04 CF3 F82-F83 1C89-1C8A 1DD3-1DE6 A7CB-A7CD A7DA-A7DC 105C0-105F3 "
     "10D4A-10D65 10D69 10D6F-10D85 10EC2-10EC4 10EFC 11080-11081 1123F-11241 11380-11389 "
     "1138B 1138E 11390-113B5 113B7-113C0 113C2 113C5 113C7-113CA 113CC-113CD 113D1 113D3 "
     "11BC0-11BE0 11F00-11F10 11F12-11F3A 11F3E-11F40 1342F 13441-13446 13460-143FA "
     "16100-1612E 16D40-16D6C 18CFF 1B132 1B155 1DF25-1DF2A 1E030-1E06D 1E08F 1E4D0-1E4EB "
     "1E5D0-1E5ED 1E5F0 2B739 2EBF0-2EE5D 31350-323AF"},
    {"lowercase", "10FC 1C8A A7CD A7DB A7F2-A7F4 AB69 10D70-10D85 1DF25-1DF2A 1E030-1E06D"},
    {"uppercase", "1C89 A7CB-A7CC A7DA A7DC 10D50-10D65"},
    {"emoji", kYoungEmoji},
    {"emojipresentation", kYoungEmoji},
    {"emojimodifierbase", "1FAF7-1FAF8"},
    {"ideographic", "18CFF 2B739 2EBF0-2EE5D 31350-323AF"},
    {"math", "10D8E-10D8F"},
    {"dash", "10D6E"},
    {"diacritic",
     "E3A 1734 1A60 1BE6 1BF2-1BF3 A806 A82C 10A38-10A3A 10A3F 10D4E 10D69-10D6D 10EFD-10EFF "
     "1133B 113CE-113D0 113D2-113D3 113E1-113E2 11F41-11F42 11F5A 13447-13455 1612F "
     "16D6B-16D6C 1E030-1E06D 1E5EE-1E5EF"},
    {"cased",
     "10FC 1C89-1C8A A7CB-A7CD A7DA-A7DC A7F2-A7F4 AB69 10D50-10D65 10D70-10D85 1DF25-1DF2A "
     "1E030-1E06D"},
    {"graphemeextend",
     "897 CC0 CC7-CC8 CCA-CCB ECE 1715 1734 1B3B 1B3D 1B43-1B44 1BAA 1BF2-1BF3 A953 A9C0 "
     "10D69-10D6D 10EFC-10EFF 111C0 11235 11241 1134D 113B8 113BB-113C0 113C2 113C5 "
     "113C7-113C9 113CE-113D0 113D2 113E1-113E2 116B6 1193D 11F00-11F01 11F36-11F3A "
     "11F40-11F42 11F5A 13440 13447-13455 1611E-16129 1612D-1612F 16FF0-16FF1 1D166 1D16D "
     "1E08F 1E4EC-1E4EF 1E5EE-1E5EF"},
    {"idcontinue", "200C-200D 30FB FF65"},
};

struct YoungScript {
  std::string_view name, short_name;
  std::string_view ranges;
};

constexpr YoungScript kScripts[] = {
    {"sc:arabic", "sc:arab", "897 10EC2-10EC4 10EFC-10EFF"},
    {"sc:balinese", "sc:bali", "1B4E-1B4F 1B7F"},
    {"sc:common", "sc:zyyy",
     "2427-2429 2FFC-2FFF 31E4-31E5 31EF 1CC00-1CCF9 1CD00-1CEB3 1D2C0-1D2D3 1F6DC 1F774-1F776 "
     "1F77B-1F77F 1F7D9 1F8B2-1F8BB 1F8C0-1F8C1 1FA75-1FA77 1FA87-1FA89 1FA8F 1FAAD-1FAAF "
     "1FABB-1FABF 1FAC6 1FACE-1FACF 1FADA-1FADC 1FADF 1FAE8-1FAE9 1FAF7-1FAF8 1FBCB-1FBEF"},
    {"sc:cyrillic", "sc:cyrl", "1C89-1C8A 1E030-1E06D 1E08F"},
    {"sc:devanagari", "sc:deva", "11B00-11B09"},
    {"sc:egyptianhieroglyphs", "sc:egyp", "1342F 13439-13455 13460-143FA"},
    {"sc:han", "sc:hani", "2B739 2EBF0-2EE5D 31350-323AF"},
    {"sc:hiragana", "sc:hira", "1B132"},
    {"sc:kannada", "sc:knda", "CF3"},
    {"sc:katakana", "sc:kana", "1B155"},
    {"sc:khitansmallscript", "sc:kits", "18CFF"},
    {"sc:khojki", "sc:khoj", "1123F-11241"},
    {"sc:lao", "sc:laoo", "ECE"},
    {"sc:latin", "sc:latn", "A7CB-A7CD A7DA-A7DC 1DF25-1DF2A"},
    {"sc:myanmar", "sc:mymr", "116D0-116E3"},
};

constexpr char32_t kNowSpacing = 0x1171E;  // AHOM CONSONANT SIGN MEDIAL RA: from Mn to Mc

using Characters = std::pair<char32_t, char32_t>;

std::vector<Characters> characters_of(std::string_view ranges) {
  std::vector<Characters> found;
  const auto number = [&](const char*& p) {
    uint32_t value = 0;
    p = std::from_chars(p, ranges.data() + ranges.size(), value, 16).ptr;
    return static_cast<char32_t>(value);
  };
  for (const char *p = ranges.data(), *end = p + ranges.size(); p < end; ++p) {
    const char32_t first = number(p);
    const bool has_last = p < end && *p == '-';
    found.emplace_back(first, has_last ? number(++p) : first);
  }
  return found;
}

void append_items(std::string_view ranges, std::string& items) {
  for (const auto& [first, last] : characters_of(ranges)) {
    items += pcre2_literal(first);
    if (last > first) items.append("-").append(pcre2_literal(last));
  }
}

// Sorted, without those that only rare properties disagree on: young_items of these always hold.
const std::vector<Characters>& disputed() {
  static const std::vector<Characters> all = [] {
    std::vector<Characters> ranges;
    const auto add = [&](std::string_view text) {
      const auto more = characters_of(text);
      ranges.insert(ranges.end(), more.begin(), more.end());
    };
    for (const Young& category : kCategories) add(category.ranges);
    for (const Young& property : kProperties) {
      if (property.name == "alphabetic") add(property.ranges);
    }
    std::sort(ranges.begin(), ranges.end());
    std::vector<Characters> merged;
    for (const Characters& range : ranges) {
      if (!merged.empty() && range.first <= merged.back().second + 1) {
        merged.back().second = std::max(merged.back().second, range.second);
      } else {
        merged.push_back(range);
      }
    }
    return merged;
  }();
  return all;
}

// The bytes that disputed characters of more than one byte begin with.
const std::array<bool, 256>& leading_bytes() {
  static const std::array<bool, 256> found = [] {
    std::array<bool, 256> is_leading{};
    for (const auto& [first, last] : disputed()) {
      std::string low, high;
      append_utf8(low, first);
      append_utf8(high, last);
      for (int byte = static_cast<unsigned char>(low[0]); byte <= static_cast<unsigned char>(high[0]); ++byte)
        is_leading[static_cast<size_t>(byte)] = true;
    }
    return is_leading;
  }();
  return found;
}

}  // namespace

std::string young_items(std::string_view name) {
  std::string items;
  for (const Young& category : kCategories) {
    if (category.name.starts_with(name)) append_items(category.ranges, items);
  }
  for (const Young& property : kProperties) {
    if (property.name == name) append_items(property.ranges, items);
  }
  for (const YoungScript& script : kScripts) {
    if (script.name == name || script.short_name == name) append_items(script.ranges, items);
  }
  return items;
}

std::string dropped_items(std::string_view name) {
  if (name == "Mn" || name == "graphemeextend") return pcre2_literal(kNowSpacing);
  return name == "sc:unknown" || name == "sc:zzzz" ? young_items("") : "";
}

bool has_young_characters(std::string_view text) {
  const std::vector<Characters>& ranges = disputed();
  const std::array<bool, 256>& is_leading = leading_bytes();
  for (const char *p = text.data(), *end = p + text.size(); p < end;) {
    if (!is_leading[static_cast<unsigned char>(*p)]) {
      ++p;
      continue;
    }
    const char32_t c = next_code_point(p);
    const auto above = std::upper_bound(ranges.begin(), ranges.end(), Characters(c, 0x10FFFF));
    if (above != ranges.begin() && c <= std::prev(above)->second) return true;
  }
  return false;
}

}  // namespace msplora::detail
