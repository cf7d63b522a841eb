#include "tokenizers/oniguruma.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "core/pcre.h"
#include "tokenizers/oniguruma_sets.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

// Deep enough for every pattern in use, shallow enough for every stack.
constexpr int kDeepestGroup = 200;

std::u32string full_case_folding(char32_t c) {
  std::array<utf8proc_int32_t, 8> buffer{};
  const auto size = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), buffer.data(), buffer.size(),
                                            UTF8PROC_CASEFOLD, nullptr);
  return {buffer.begin(), buffer.begin() + std::clamp<utf8proc_ssize_t>(size, 0, 8)};
}

// The strings that one character becomes when case is folded, as "ss" for U+00DF.
const std::set<std::u32string>& strings_of_one_character() {
  static const std::set<std::u32string> strings = [] {
    std::set<std::u32string> found;
    for (char32_t c = 0x80; c < 0x10000; ++c) {
      const std::u32string folded = full_case_folding(c);
      if (folded.size() > 1) found.insert(folded);
    }
    return found;
  }();
  return strings;
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    std::string out = alternatives({});
    if (!at_end()) fail("a `)` without its `(`");
    return out;
  }

 private:
  struct Options {
    bool caseless = false;
    bool dot_all = false;
    bool extended = false;
  };

  [[noreturn]] void fail(const std::string& problem) const { throw PatternError(problem, position_); }
  [[noreturn]] void not_built(const std::string& what) const { fail(what + " in a pattern is not built"); }

  bool at_end() const { return position_ >= pattern_.size(); }
  char peek(size_t ahead = 0) const {
    return position_ + ahead < pattern_.size() ? pattern_[position_ + ahead] : '\0';
  }
  std::string_view rest() const { return pattern_.substr(std::min(position_, pattern_.size())); }
  bool take(std::string_view text) {
    if (!rest().starts_with(text)) return false;
    position_ += text.size();
    return true;
  }
  char32_t code_point() {
    if (at_end()) fail("the pattern ends too early");
    const char* p = pattern_.data() + position_;
    const char32_t c = next_code_point(p);
    position_ = static_cast<size_t>(p - pattern_.data());
    return c;
  }

  // Up to the end of the group.
  std::string alternatives(Options options) {
    std::string out = sequence(options);
    while (take("|")) out += "|" + sequence(options);
    return out;
  }

  std::string sequence(Options options) {
    std::string out;
    literals_.clear();
    for (;;) {
      skip_ignored(options);
      if (at_end() || peek() == '|' || peek() == ')') return out;
      quantifiable_ = true;
      const size_t before = literals_.size();
      std::string item = atom(options);
      if (literals_.size() == before) literals_.clear();
      for (bool repeated = false; quantify(item, options, repeated); repeated = true) {
      }
      out += item;
    }
  }

  void skip_ignored(Options options) {
    for (;;) {
      if (rest().starts_with("(?#")) {
        const size_t end = pattern_.find(')', position_);
        if (end == std::string_view::npos) fail("a comment without its end");
        position_ = end + 1;
      } else if (options.extended && !at_end() &&
                 std::string_view(" \t\n\r\f\v").find(peek()) != std::string_view::npos) {
        ++position_;
      } else if (options.extended && peek() == '#') {
        position_ = std::min(pattern_.find('\n', position_), pattern_.size());
      } else {
        return;
      }
    }
  }

  std::string atom(Options options) {
    const char c = peek();
    switch (c) {
      case '(':
        ++position_;
        return group(options);
      case '[': {
        ++position_;
        const CharacterSet set = brackets(1);
        if (options.caseless && !set.ascii)
          not_built("a set of more than ASCII letters without regard to case");
        return set.expression();
      }
      case '.':
        ++position_;
        return options.dot_all ? "(?s:.)" : ".";
      case '^':
        return zero_width(1, "(?m:^)");
      case '$':
        return zero_width(1, "(?m:$)");
      case '\\':
        return escape(options);
      case '*':
      case '+':
      case '?':
        fail(std::string("`") + c + "` has nothing to repeat");
      case '{':
        if (interval()) fail("the interval has nothing to repeat");
        break;
      default:
        break;
    }
    return literal(code_point(), options);
  }

  std::string zero_width(size_t size, std::string translated) {
    position_ += size;
    quantifiable_ = false;
    return translated;
  }

  std::string literal(char32_t c, Options options) {
    if (options.caseless) check_folding(c);
    return pcre2_literal(c);
  }

  // Without regard to case, "ss" is also one character, and that character also two.
  void check_folding(char32_t c) {
    const std::u32string folded = full_case_folding(c);
    if (folded.size() != 1) not_built("a letter that case folding makes several, without regard to case,");
    literals_ += folded;
    for (size_t size = 2; size <= std::min<size_t>(3, literals_.size()); ++size) {
      if (strings_of_one_character().contains(literals_.substr(literals_.size() - size)))
        not_built("a string that also stands for one character without regard to case");
    }
  }

  // What lies between the opening of a group and its end.
  std::string group_body(const std::string& opening, Options inner) {
    if (++depth_ > kDeepestGroup) fail("groups are nested deeper than " + std::to_string(kDeepestGroup));
    std::string body = alternatives(inner);
    if (!take(")")) fail("a `(` without its `)`");
    --depth_;
    literals_.clear();
    quantifiable_ = true;
    return opening + body + ")";
  }

  std::string group(Options options) {
    literals_.clear();
    if (!take("?")) return group_body("(?:", options);
    for (const char* look : {"=", "!", "<=", "<!"}) {
      if (!take(look)) continue;
      std::string translated = group_body(std::string("(?") + look, options);
      quantifiable_ = false;
      return translated;
    }
    if (take(":")) return group_body("(?:", options);
    if (take(">")) return group_body("(?>", options);
    if (peek() == '<' || peek() == '\'') {
      const size_t end = pattern_.find(peek() == '<' ? '>' : '\'', position_ + 1);
      if (end == std::string_view::npos || end == position_ + 1) fail("a group without its name");
      position_ = end + 1;
      return group_body("(?:", options);
    }
    if (peek() == '~') not_built("absence, `(?~`,");
    if (peek() == '(') not_built("a condition, `(?(`,");
    if (peek() != '-' && std::string_view("imx").find(peek()) == std::string_view::npos)
      fail(std::string("`(?") + peek() + "` is no group of Oniguruma's Ruby syntax");
    return option_group(options);
  }

  // (?imx-imx:...), and (?imx-imx), which reaches to the end of the group around it, over its alternatives.
  std::string option_group(const Options outer) {
    Options inner = outer;
    bool value = true;
    for (; peek() != ')' && peek() != ':'; ++position_) {
      switch (peek()) {
        case '-':
          value = false;
          break;
        case 'i':
          inner.caseless = value;
          break;
        case 'm':
          inner.dot_all = value;
          break;
        case 'x':
          inner.extended = value;
          break;
        default:
          fail(std::string("`") + peek() + "` is no option of Oniguruma's Ruby syntax");
      }
    }
    const std::string opening = inner.caseless == outer.caseless ? "(?:" : inner.caseless ? "(?i:" : "(?-i:";
    if (take(":")) return group_body(opening, inner);
    ++position_;
    std::string body = alternatives(inner);
    literals_.clear();
    return opening + body + ")";
  }

  std::string escape(Options options) {
    const char letter = peek(1);
    if (auto set = shorthand_set(letter, false)) {
      position_ += 2;
      return set->expression();
    }
    switch (letter) {
      case 'A':
        return zero_width(2, "\\A");
      case 'Z':
        return zero_width(2, "\\Z");
      case 'z':
        return zero_width(2, "\\z");
      case 'b':
      case 'B': {
        const std::string word = shorthand_set('w', false)->expression();
        const bool border = letter == 'b';
        return zero_width(2, "(?:(?<=" + word + ")(?" + (border ? "!" : "=") + word + ")|(?<!" + word +
                                 ")(?" + (border ? "=" : "!") + word + "))");
      }
      case 'R':
        position_ += 2;
        return R"((?>\r\n|[\x{A}-\x{D}\x{85}\x{2028}\x{2029}]))";
      case 'N':
        position_ += 2;
        return "[^\\n]";
      case 'O':
        position_ += 2;
        return "(?s:.)";
      case 'p':
      case 'P': {
        const CharacterSet set = property();
        return options.caseless ? "(?-i:" + set.expression() + ")" : set.expression();
      }
      default:
        break;
    }
    ++position_;
    if (letter >= '1' && letter <= '9') not_built("a back reference");
    if (std::string_view("kg").find(letter) != std::string_view::npos && (peek(1) == '<' || peek(1) == '\''))
      not_built(letter == 'k' ? "a back reference" : "a call of a group");
    return literal(escaped_character("ijlmoqEFIJLQTUV"), options);
  }

  // The one character that an escape stands for, from the letter on; `literal_letters` stand for themselves.
  char32_t escaped_character(std::string_view literal_letters) {
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

  char32_t octal() {
    char32_t value = 0;
    for (int digits = 0; digits < 3 && peek() >= '0' && peek() <= '7'; ++digits, ++position_)
      value = value * 8 + static_cast<char32_t>(peek() - '0');
    if (value >= 0x80) not_built("a byte that is not ASCII");
    return value;
  }

  // xHH, x{H...}, uHHHH
  char32_t hexadecimal() {
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

  // \p{...}
  CharacterSet property() {
    bool negative = peek(1) == 'P';
    if (peek(2) != '{') fail(std::string("expected \\") + peek(1) + "{NAME}");
    position_ += 3;
    if (take("^")) negative = !negative;
    const size_t end = pattern_.find('}', position_);
    if (end == std::string_view::npos) fail("expected `}` after the name of a property");
    const std::string_view name = pattern_.substr(position_, end - position_);
    const auto set = property_set(name);
    if (!set) fail("`" + std::string(name) + "` is no property of Oniguruma's");
    check_compiles(*set, name);
    position_ = end + 1;
    return negative ? set->negated() : *set;
  }

  // PCRE2 decides which scripts there are; its own message would speak of a pattern that nobody wrote.
  void check_compiles(const CharacterSet& set, std::string_view name) const {
    try {
      const PcrePattern compiled(set.expression(), PcrePattern::Text::kUnicode);
    } catch (const PatternError&) {
      fail("the property `" + std::string(name) + "` is not known");
    }
  }

  // Behind "[": the set up to its "]".
  CharacterSet brackets(int depth) {
    if (depth > kDeepestGroup) fail("sets are nested deeper than " + std::to_string(kDeepestGroup));
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
    ++position_;
    return negative ? intersection->negated() : *intersection;
  }

  void add_to(CharacterSet& set, int depth) {
    if (take("[:")) return set.add(posix_brackets());
    if (take("[")) {
      set.add(brackets(depth + 1));
      set.ascii = false;  // case is folded after all is put together
      return;
    }
    if (peek() == '\\') {
      if (const auto known = shorthand_set(peek(1), true)) {
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
        (shorthand_set(peek(1), true) || ((peek(1) == 'p' || peek(1) == 'P') && peek(2) == '{')))
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

  void add_class(CharacterSet& set, const CharacterSet& other) {
    if (peek() == '-' && peek(1) != ']') fail("a range cannot begin with a class");
    set.add(other);
  }

  char32_t set_character() {
    if (!take("\\")) return code_point();
    return escaped_character("gijklmoqyzABEFGIJKLNOQRTUVXYZ89");
  }

  static void add_range(CharacterSet& set, char32_t first, char32_t last) {
    set.items += pcre2_literal(first);
    if (last > first) set.items += "-" + pcre2_literal(last);
    if (last >= 0x80) set.ascii = false;
  }

  CharacterSet posix_brackets() {
    const bool negative = take("^");
    const size_t end = pattern_.find(":]", position_);
    const auto set =
        end == std::string_view::npos ? std::nullopt : posix_set(pattern_.substr(position_, end - position_));
    if (!set) fail("expected a class as in [:alpha:]");
    position_ = end + 2;
    return negative ? set->negated() : *set;
  }

  struct Interval {
    std::string low, high;
    bool fixed = false;  // {n}
    size_t size = 0;
  };

  // What stands at the position if it is {n}, {n,}, {,m} or {n,m}; anything else is text.
  std::optional<Interval> interval() const {
    Interval found;
    size_t at = position_ + 1;
    const auto digits = [&] {
      const size_t begin = at;
      while (at < pattern_.size() && std::isdigit(static_cast<unsigned char>(pattern_[at]))) ++at;
      return std::string(pattern_.substr(begin, at - begin));
    };
    found.low = digits();
    if (at < pattern_.size() && pattern_[at] == ',') {
      ++at;
      found.high = digits();
      if (found.low.empty() && found.high.empty()) return std::nullopt;
    } else {
      found.fixed = true;
      if (found.low.empty()) return std::nullopt;
    }
    if (at >= pattern_.size() || pattern_[at] != '}') return std::nullopt;
    found.size = at + 1 - position_;
    return found;
  }

  // Puts the quantifier at the position, if there is one, behind `item`.
  bool quantify(std::string& item, Options options, bool repeated) {
    const size_t here = position_;
    skip_ignored(options);
    std::string quantifier;
    const char c = peek();
    if (!at_end() && (c == '*' || c == '+' || c == '?')) {
      ++position_;
      quantifier = c;
      if (take("?")) {
        quantifier += '?';
      } else if (take("+")) {
        quantifier += '+';
      }
    } else if (const auto found = c == '{' ? interval() : std::nullopt) {
      if (!found->fixed && !found->low.empty() && !found->high.empty() &&
          std::stoull("0" + found->low.substr(0, 9)) > std::stoull("0" + found->high.substr(0, 9)))
        not_built("an interval that runs backwards");
      position_ += found->size;
      quantifier =
          "{" + (found->low.empty() ? "0" : found->low) + (found->fixed ? "" : "," + found->high) + "}";
      // A "?" behind {n}, and a "+" behind any interval, repeats the whole.
      if (!found->fixed && take("?")) quantifier += '?';
    } else {
      position_ = here;
      return false;
    }
    if (!quantifiable_) not_built("a repeated anchor or look-around");
    if (item.empty()) fail("the quantifier has nothing to repeat");
    // PCRE2 reads a second quantifier as a part of the first.
    item = (repeated ? "(?:" + item + ")" : item) + quantifier;
    literals_.clear();
    return true;
  }

  std::string_view pattern_;
  size_t position_ = 0;
  int depth_ = 0;
  bool quantifiable_ = true;
  std::u32string literals_;  // the neighbouring characters before the position, without regard to case
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view pattern) {
  std::string buffer;
  if (valid_utf8(pattern, buffer).data() != pattern.data())
    throw PatternError("the pattern is not well-formed UTF-8", 0);
  return Translator(pattern).run();
}

}  // namespace msplora::detail
