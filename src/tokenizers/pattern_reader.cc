#include "tokenizers/pattern_reader.h"

#include <cctype>
#include <optional>
#include <string>
#include <string_view>

#include "core/pcre.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

bool matches_beyond_ascii(const CharacterSet& set) {
  std::string all;
  for (char32_t c = 0x80; c <= 0x10FFFF; ++c) {
    if (c < 0xD800 || c > 0xDFFF) append_utf8(all, c);
  }
  const PcrePattern compiled(set.expression(), PcrePattern::Text::kUnicode);
  return PcreSearch(compiled).find(all);
}

}  // namespace

void PatternReader::fail(const std::string& problem) const {
  throw PatternError(problem, position_);
}

void PatternReader::not_built(const std::string& what) const {
  fail(what + " in a pattern is not built");
}

bool PatternReader::take(std::string_view text) {
  if (!rest().starts_with(text)) return false;
  position_ += text.size();
  return true;
}

char32_t PatternReader::code_point() {
  if (at_end()) fail("the pattern ends too early");
  const char* p = pattern_.data() + position_;
  const char32_t c = next_code_point(p);
  position_ = static_cast<size_t>(p - pattern_.data());
  return c;
}

char32_t PatternReader::escaped_character(std::string_view literal_letters) {
  if (at_end()) fail("a `\\` at the end");
  const char letter = peek();
  constexpr std::string_view kLetters = "abefnrtv0";
  constexpr char32_t kMeanings[] = {0x7, 0x8, 0x1B, 0xC, 0xA, 0xD, 0x9, 0xB};
  if (const size_t known = kLetters.find(letter); known != std::string_view::npos && letter != '0') {
    ++position_;
    return kMeanings[known];
  }
  if (letter == '0') return octal();
  if (letter == 'x' || letter == 'u') return hexadecimal();
  if (std::isalnum(static_cast<unsigned char>(letter)) &&
      literal_letters.find(letter) == std::string_view::npos)
    not_built(std::string("`\\") + letter + "`");
  return code_point();
}

char32_t PatternReader::octal() {
  char32_t value = 0;
  for (int digits = 0; digits < 3 && peek() >= '0' && peek() <= '7'; ++digits, ++position_)
    value = value * 8 + static_cast<char32_t>(peek() - '0');
  if (value >= 0x80) not_built("a byte that is not ASCII");
  return value;
}

// xHH, x{H...}, uHHHH
char32_t PatternReader::hexadecimal() {
  const bool braces = peek(0) == 'x' && peek(1) == '{';
  const bool byte = peek(0) == 'x' && !braces;
  const size_t wanted = braces ? 8 : byte ? 2 : 4;
  position_ += braces ? 2 : 1;
  char32_t value = 0;
  size_t digits = 0;
  for (; digits < wanted && std::isxdigit(static_cast<unsigned char>(peek())); ++digits, ++position_) {
    const char c = peek();
    value = value * 16 + static_cast<char32_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  if (digits == 0 || (!braces && digits < wanted) || (braces && !take("}")))
    fail("expected hexadecimal digits");
  if (byte && value >= 0x80) not_built("a byte that is not ASCII");
  if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) fail("no such character");
  return value;
}

CharacterSet PatternReader::property() {
  bool negative = peek(1) == 'P';
  if (peek(2) != '{') fail(std::string("expected \\") + peek(1) + "{NAME}");
  position_ += 3;
  if (take("^")) negative = !negative;
  const size_t end = pattern_.find('}', position_);
  if (end == std::string_view::npos) fail("expected `}` after the name of a property");
  const std::string_view name = pattern_.substr(position_, end - position_);
  const auto set = property_set(name, tables_);
  if (!set) fail("`" + std::string(name) + "` is no property of Oniguruma's");
  check_compiles(*set, name);
  position_ = end + 1;
  return negative ? set->negated() : *set;
}

// PCRE2 decides which scripts there are; its own message would speak of a pattern that nobody wrote.
void PatternReader::check_compiles(const CharacterSet& set, std::string_view name) const {
  try {
    const PcrePattern compiled(set.expression(), PcrePattern::Text::kUnicode);
  } catch (const PatternError&) {
    fail("the property `" + std::string(name) + "` is not known");
  }
}

CharacterSet PatternReader::brackets(int depth) {
  if (depth > kDeepest) fail("sets are nested deeper than " + std::to_string(kDeepest));
  if (depth == 1) holds_complement_ = false;
  const bool negative = take("^");
  if (peek() == ']') fail("an empty set (a `]` in it is written `\\]`)");
  std::optional<CharacterSet> intersection;
  for (bool more = true; more;) {
    CharacterSet side;
    while (!at_end() && peek() != ']' && !rest().starts_with("&&")) add_to(side, depth);
    if (at_end()) fail("a `[` without its `]`");
    if (side.empty()) fail("one side of `&&` is empty");
    intersection = intersection ? intersection->intersected(side) : side;
    more = take("&&");
  }
  // There Oniguruma looks a character's first byte up in a table of bytes, which complements left untidy.
  if (depth == 1 && negative && holds_complement_ && !matches_beyond_ascii(*intersection))
    not_built("`[^...]` of ASCII alone with another `[^` in it");
  ++position_;
  holds_complement_ = holds_complement_ || negative;
  return negative ? intersection->negated() : *intersection;
}

void PatternReader::add_to(CharacterSet& set, int depth) {
  if (take("[:")) return set.add(posix_brackets());
  if (take("[")) {
    set.add(brackets(depth + 1));
    set.ascii = false;  // case is folded after all is put together
    return;
  }
  if (peek() == '\\') {
    if (const auto known = shorthand_set(peek(1), true, tables_)) {
      position_ += 2;
      return add_class(set, *known);
    }
    if ((peek(1) == 'p' || peek(1) == 'P') && peek(2) == '{') return add_class(set, property());
  }
  const bool dash = peek() == '-';
  const char32_t first = set_character();
  const bool range = peek() == '-' && peek(1) != ']' && !at_end();
  if (!range) return add_range(set, first, first);
  if (dash) not_built("a range from `-`");
  ++position_;
  if (peek() == '[' || rest().starts_with("&&")) fail("a range without its end");
  if (peek() == '\\' &&
      (shorthand_set(peek(1), true, tables_) || ((peek(1) == 'p' || peek(1) == 'P') && peek(2) == '{')))
    fail("a range cannot end in a class");
  const char32_t last = set_character();
  if (last < first) fail("a range that runs backwards");
  add_range(set, first, last);
  // As in [a-c-e], which holds "-".
  if (peek() == '-' && peek(1) != ']') {
    ++position_;
    add_range(set, '-', '-');
  }
}

void PatternReader::add_class(CharacterSet& set, const CharacterSet& other) {
  if (peek() == '-' && peek(1) != ']') fail("a range cannot begin with a class");
  set.add(other);
}

char32_t PatternReader::set_character() {
  if (!take("\\")) return code_point();
  return escaped_character("gijklmoqyzABEFGIJKLNOQRTUVXYZ89");
}

void PatternReader::add_range(CharacterSet& set, char32_t first, char32_t last) {
  set.items += pcre2_literal(first);
  if (last > first) set.items += "-" + pcre2_literal(last);
  if (last >= 0x80) set.ascii = false;
}

CharacterSet PatternReader::posix_brackets() {
  const bool negative = take("^");
  const size_t end = pattern_.find(":]", position_);
  const auto set = end == std::string_view::npos
                       ? std::nullopt
                       : posix_set(pattern_.substr(position_, end - position_), tables_);
  if (!set) fail("expected a class as in [:alpha:]");
  position_ = end + 2;
  return negative ? set->negated() : *set;
}

}  // namespace msplora::detail
