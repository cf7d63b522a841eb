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
#include "tokenizers/pattern_reader.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

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

class Translator : private PatternReader {
 public:
  Translator(std::string_view pattern, UnicodeTables tables) : PatternReader(pattern, tables) {}

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

  // Up to the end of the group.
  std::string alternatives(Options options) {
    std::string out = sequence(options);
    bool is_anchor = is_anchor_;
    while (take("|")) {
      out += "|" + sequence(options);
      is_anchor = is_anchor || is_anchor_;
    }
    is_anchor_ = is_anchor;
    return out;
  }

  std::string sequence(Options options) {
    std::string out;
    literals_.clear();
    for (int items = 0;; ++items) {
      skip_ignored(options);
      is_anchor_ = items == 1 && !quantifiable_;
      if (at_end() || peek() == '|' || peek() == ')') return out;
      quantifiable_ = true;
      const size_t before = literals_.size();
      std::string item = atom(options);
      if (literals_.size() == before) literals_.clear();
      for (int count = 0; quantify(item, options, count > 0); ++count) {
        if (count == kDeepest) fail("more than " + std::to_string(kDeepest) + " quantifiers stand in a row");
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
    std::string body = nested(inner);
    if (!take(")")) fail("a `(` without its `)`");
    return opening + body + ")";
  }

  // The alternatives of a group, bounded in depth.
  std::string nested(Options inner) {
    if (++depth_ > kDeepest) fail("groups are nested deeper than " + std::to_string(kDeepest));
    std::string body = alternatives(inner);
    --depth_;
    literals_.clear();
    quantifiable_ = true;
    return body;
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
    if (take(":")) {
      std::string translated = group_body("(?:", options);
      quantifiable_ = !is_anchor_;  // to Oniguruma such a group is what it holds
      return translated;
    }
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
    return opening + nested(inner) + ")";
  }

  std::string escape(Options options) {
    const char letter = peek(1);
    if (auto set = shorthand_set(letter, false, tables_)) {
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
        const std::string word = shorthand_set('w', false, tables_)->expression();
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

  int depth_ = 0;
  bool quantifiable_ = true;
  bool is_anchor_ = false;   // whether one of the alternatives just read is an anchor or look-around alone
  std::u32string literals_;  // the neighbouring characters before the position, without regard to case
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view pattern, UnicodeTables tables) {
  std::string buffer;
  if (valid_utf8(pattern, buffer).data() != pattern.data())
    throw PatternError("the pattern is not well-formed UTF-8", 0);
  return Translator(pattern, tables).run();
}

}  // namespace msplora::detail
