#include "tokenizers/oniguruma_sets.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace msplora::detail {
namespace {

constexpr std::string_view kWhiteSpace =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
// Outside of brackets Oniguruma asks a table of Latin-1 that counts these numbers as word characters.
constexpr std::string_view kLatinNumbers = R"(\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";

CharacterSet set_of(std::string_view items, bool ascii = false) {
  return {std::string(items), {}, ascii};
}

/// A general category by its short name, a property or "sc:" and a script in lower case without spaces.
CharacterSet category(std::string_view name, UnicodeTables tables) {
  CharacterSet set = set_of("\\p{" + std::string(name) + "}");
  if (tables == UnicodeTables::kOfLibrary) return set;
  if (name == "Cn") return set_of("\\P{Cn}" + young_items("")).negated();
  if (name == "C") {
    set = set_of(R"(\p{Cc}\p{Cf}\p{Cs}\p{Co})" + young_items(name));
    set.add(category("Cn", tables));
    return set;
  }
  set.items += young_items(name);
  const std::string dropped = dropped_items(name);
  if (!dropped.empty()) return set_of(dropped).negated().intersected(set);
  return set;
}

CharacterSet union_of(std::initializer_list<std::string_view> names, UnicodeTables tables) {
  CharacterSet set;
  for (const std::string_view name : names) set.add(category(name, tables));
  set.ascii = false;
  return set;
}

// Unicode's general categories by their long names, as Oniguruma spells them without spaces and lines.
constexpr std::array<std::pair<std::string_view, std::string_view>, 41> kLongCategories = {{
    {"letter", "L"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"punct", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"cntrl", "Cc"},
    {"format", "Cf"},
    {"unassigned", "Cn"},
    {"surrogate", "Cs"},
    {"privateuse", "Co"},
    {"digit", "Nd"},
}};

constexpr std::string_view kShortCategories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me",
                                                 "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi",
                                                 "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl",
                                                 "Zp", "C",  "Cc", "Cf", "Cn", "Cs", "Co"};

// Properties that PCRE2 knows by the same names.
constexpr std::string_view kProperties[] = {"alphabetic",
                                            "uppercase",
                                            "lowercase",
                                            "emoji",
                                            "emojipresentation",
                                            "emojimodifier",
                                            "emojimodifierbase",
                                            "emojicomponent",
                                            "extendedpictographic",
                                            "ideographic",
                                            "math",
                                            "dash",
                                            "diacritic",
                                            "cased",
                                            "idstart",
                                            "idcontinue",
                                            "xidstart",
                                            "xidcontinue",
                                            "graphemeextend",
                                            "variationselector",
                                            "joincontrol",
                                            "regionalindicator",
                                            "quotationmark",
                                            "defaultignorablecodepoint"};

std::string lower_ascii(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

// The names that \p{...} and [:...:] share.
std::optional<CharacterSet> shared_set(std::string_view name, UnicodeTables tables) {
  if (name == "alpha") return category("alphabetic", tables);
  if (name == "alnum") return union_of({"alphabetic", "Nd"}, tables);
  if (name == "ascii") return set_of(R"(\x{0}-\x{7F})", true);
  if (name == "blank") return set_of(R"(\x{9}\p{Zs})");
  if (name == "cntrl") return category("Cc", tables);
  if (name == "digit") return category("Nd", tables);
  if (name == "lower") return category("lowercase", UnicodeTables::kUnicode16);
  if (name == "space") return set_of(kWhiteSpace, true);
  if (name == "upper") return category("uppercase", UnicodeTables::kUnicode16);
  if (name == "xdigit") return set_of("0-9A-Fa-f", true);
  if (name == "print") return union_of({"Cc", "Cn", "Cs", "Zl", "Zp"}, tables).negated();
  if (name == "graph") return union_of({"Cc", "Cn", "Cs", "Z"}, tables).negated();
  return std::nullopt;
}

}  // namespace

void CharacterSet::add(const CharacterSet& other) {
  items += other.items;
  expressions.insert(expressions.end(), other.expressions.begin(), other.expressions.end());
  ascii = ascii && other.ascii;
}

CharacterSet CharacterSet::negated() const {
  if (expressions.empty()) return {"", {items.empty() ? "(?s:.)" : "[^" + items + "]"}, ascii};
  // Back from the complement of one class to the class.
  if (items.empty() && expressions.size() == 1 && expressions[0].starts_with("[^") &&
      expressions[0].find(']') == expressions[0].size() - 1) {
    return {expressions[0].substr(2, expressions[0].size() - 3), {}, ascii};
  }
  return {"", {"(?:(?!" + expression() + ")(?s:.))"}, ascii};
}

CharacterSet CharacterSet::intersected(const CharacterSet& other) const {
  const bool complement =
      other.items.empty() && other.expressions.size() == 1 && !other.negated().items.empty();
  const std::string condition =
      complement ? "(?!" + other.negated().expression() + ")" : "(?=" + other.expression() + ")";
  return {"", {"(?:" + condition + expression() + ")"}, false};
}

std::string CharacterSet::expression() const {
  if (expressions.empty()) {
    const bool one_property = items.starts_with("\\p{") && items.find('}') == items.size() - 1;
    return items.empty() ? "(?!)" : one_property ? items : "[" + items + "]";
  }
  if (items.empty() && expressions.size() == 1) return expressions[0];
  std::string alternatives = items.empty() ? "" : CharacterSet{items, {}, ascii}.expression();
  for (const std::string& one : expressions) alternatives += (alternatives.empty() ? "" : "|") + one;
  return "(?:" + alternatives + ")";
}

std::string pcre2_literal(char32_t c) {
  if (c < 0x80 && std::isalnum(static_cast<int>(c))) return {static_cast<char>(c)};
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string digits;
  for (char32_t rest = c; rest > 0 || digits.empty(); rest /= 16)
    digits.insert(digits.begin(), kHex[rest % 16]);
  return "\\x{" + digits + "}";
}

std::optional<CharacterSet> shorthand_set(char letter, bool in_brackets, UnicodeTables tables) {
  CharacterSet set;
  switch (letter) {
    case 'd':
    case 'D':
      set = category("Nd", tables);
      set.ascii = true;  // digits have no case
      break;
    case 'h':
    case 'H':
      set = set_of("0-9A-Fa-f", true);
      break;
    case 's':
    case 'S':
      set = set_of(kWhiteSpace, true);
      break;
    case 'w':
    case 'W':
      set = union_of({"alphabetic", "M", "Nd", "Pc"}, tables);
      if (!in_brackets) set.items += kLatinNumbers;
      break;
    default:
      return std::nullopt;
  }
  return std::islower(static_cast<unsigned char>(letter)) ? set : set.negated();
}

std::optional<CharacterSet> property_set(std::string_view name, UnicodeTables tables) {
  std::string plain;
  for (const char c : name) {
    if (c == ' ' || c == '_' || c == '-') continue;
    if (!std::isalnum(static_cast<unsigned char>(c))) return std::nullopt;
    plain.push_back(c);
  }
  plain = lower_ascii(plain);
  if (plain.empty()) return std::nullopt;
  for (const std::string_view known : kShortCategories) {
    if (lower_ascii(known) == plain) return category(known, tables);
  }
  for (const auto& [known, known_short] : kLongCategories) {
    if (known == plain) return category(known_short, tables);
  }
  if (plain == "lc" || plain == "casedletter") return union_of({"Lu", "Ll", "Lt"}, tables);
  if (plain == "any") return set_of(R"(\x{0}-\x{10FFFF})");
  if (plain == "assigned") return category("Cn", tables).negated();
  if (plain == "whitespace") return set_of(kWhiteSpace, true);
  if (plain == "word") return shorthand_set('w', false, tables);
  if (auto set = shared_set(plain, tables)) return set;
  if (std::find(std::begin(kProperties), std::end(kProperties), plain) != std::end(kProperties))
    return category(plain, UnicodeTables::kUnicode16);
  // A bare script name would mean its extensions in PCRE2.
  return category("sc:" + plain, tables);
}

std::optional<CharacterSet> posix_set(std::string_view name, UnicodeTables tables) {
  if (name == "punct") return union_of({"P", "S"}, tables);
  if (name == "word") return shorthand_set('w', true, tables);
  return shared_set(name, tables);
}

}  // namespace msplora::detail
