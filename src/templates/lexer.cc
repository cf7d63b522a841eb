#include "templates/lexer.h"

#include <algorithm>
#include <utility>

#include "templates/text.h"
#include "templates/value.h"

namespace msplora::templates {
namespace {

bool is_name_part(char c) {
  return is_ascii_alphanumeric(c) || c == '_';
}
bool is_name_start(char c) {
  return is_name_part(c) && !is_ascii_digit(c);
}
bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

/// Line ends become LF, and one at the very end goes.
std::string normalised(std::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      text += '\n';
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  Lexer(std::string_view source, int& line) : source_(normalised(source)), line_(line) { line_ = 1; }

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t open = next_open();
      add_text(open);
      if (open == std::string::npos) break;
      const char kind = source_[open + 1];
      advance(open + 2);
      if (kind == '#') {
        comment();
      } else if (!raw_block(kind)) {
        tag(kind);
      }
    }
    tokens_.push_back({TokenKind::kEnd, "", line_});
    return std::move(tokens_);
  }

 private:
  /// Where the next tag begins.
  size_t next_open() const {
    for (size_t i = source_.find('{', at_); i != std::string::npos; i = source_.find('{', i + 1)) {
      if (i + 1 < source_.size() && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#'))
        return i;
    }
    return std::string::npos;
  }

  void advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  /// The text up to a tag, without the white space that the tag takes.
  void add_text(size_t open) {
    std::string_view text =
        std::string_view(source_).substr(at_, open == std::string::npos ? open : open - at_);
    if (open != std::string::npos) text = before_tag(text, open);
    if (!text.empty()) tokens_.push_back({TokenKind::kText, std::string(text), line_});
    advance(open == std::string::npos ? source_.size() : open);
  }

  std::string_view before_tag(std::string_view text, size_t open) const {
    const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
    if (sign == '-') return stripped(text, false, true);
    if (source_[open + 1] == '{' || sign == '+') return text;
    size_t begin = text.size();
    while (begin > 0 && is_blank(text[begin - 1]) && text[begin - 1] != '\n') --begin;
    const size_t in_source = open - (text.size() - begin);
    const bool is_line_start = in_source == 0 || source_[in_source - 1] == '\n';
    return is_line_start ? text.substr(0, begin) : text;
  }

  /// Behind the end of a tag, whose last two characters stand at `end`.
  void close(size_t end, char sign, bool trims_line) {
    size_t next = end + 2;
    if (sign == '-') {
      while (next < source_.size() && is_blank(source_[next])) ++next;
    } else if (sign != '+' && trims_line && next < source_.size() && source_[next] == '\n') {
      ++next;
    }
    advance(next);
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail("a comment has no end (#})");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    close(end, sign == '-' || sign == '+' ? sign : '\0', true);
  }

  /// {% raw %} ... {% endraw %}: everything between is text.
  bool raw_block(char kind) {
    if (kind != '%') return false;
    size_t end = 0;
    if (!is_word_tag(at_, "raw", end)) return false;
    const char sign = source_[end - 1];
    advance(end);
    close(end, sign == '-' ? '-' : '+', false);
    for (size_t open = source_.find("{%", at_); open != std::string::npos;
         open = source_.find("{%", open + 1)) {
      if (!is_word_tag(open + 2, "endraw", end)) continue;
      const std::string_view text = before_tag(std::string_view(source_).substr(at_, open - at_), open);
      if (!text.empty()) tokens_.push_back({TokenKind::kText, std::string(text), line_});
      const char last = source_[end - 1];
      advance(end);
      close(end, last == '-' || last == '+' ? last : '\0', true);
      return true;
    }
    fail("a raw block has no end ({% endraw %})");
  }

  /// Whether a tag that begins at `from` (behind its braces) holds this word alone; `end`: its closing
  /// braces.
  bool is_word_tag(size_t from, std::string_view word, size_t& end) const {
    if (from < source_.size() && (source_[from] == '-' || source_[from] == '+')) ++from;
    while (from < source_.size() && is_blank(source_[from])) ++from;
    if (source_.compare(from, word.size(), word) != 0) return false;
    from += word.size();
    while (from < source_.size() && is_blank(source_[from])) ++from;
    if (from < source_.size() && (source_[from] == '-' || source_[from] == '+')) ++from;
    end = from;
    return source_.compare(from, 2, "%}") == 0;
  }

  void tag(char kind) {
    if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) advance(at_ + 1);
    const bool is_print = kind == '{';
    tokens_.push_back({is_print ? TokenKind::kOpenPrint : TokenKind::kOpenTag, "", line_});
    const std::string_view end = is_print ? "}}" : "%}";
    std::string open_brackets;
    while (true) {
      while (at_ < source_.size() && is_blank(source_[at_])) advance(at_ + 1);
      if (at_ >= source_.size())
        fail(is_print ? "a print statement has no end (}})" : "a tag has no end (%})");
      if (open_brackets.empty()) {
        const char sign = source_[at_];
        const bool is_signed =
            (sign == '-' || (sign == '+' && !is_print)) && source_.compare(at_ + 1, 2, end) == 0;
        if (is_signed || source_.compare(at_, 2, end) == 0) {
          tokens_.push_back({is_print ? TokenKind::kClosePrint : TokenKind::kCloseTag, "", line_});
          close(at_ + (is_signed ? 1 : 0), is_signed ? sign : '\0', !is_print);
          return;
        }
      }
      word(open_brackets);
    }
  }

  void word(std::string& open_brackets) {
    const char c = source_[at_];
    if (is_name_start(c)) {
      size_t end = at_;
      while (end < source_.size() && is_name_part(source_[end])) ++end;
      add(TokenKind::kName, source_.substr(at_, end - at_), end);
    } else if (is_ascii_digit(c)) {
      number();
    } else if (c == '\'' || c == '"') {
      string(c);
    } else {
      operation(open_brackets);
    }
  }

  void add(TokenKind kind, std::string text, size_t end) {
    tokens_.push_back({kind, std::move(text), line_});
    advance(end);
  }

  void number() {
    size_t end = at_;
    bool is_float = false;
    const auto digits = [&] {
      while (end < source_.size() && (is_ascii_digit(source_[end]) || source_[end] == '_')) ++end;
    };
    const auto digit_at = [&](size_t i) { return i < source_.size() && is_ascii_digit(source_[i]); };
    digits();
    if (end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
      is_float = true;
      ++end;
      digits();
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const size_t sign =
          end + 1 < source_.size() && (source_[end + 1] == '-' || source_[end + 1] == '+') ? 1 : 0;
      if (digit_at(end + 1 + sign)) {
        is_float = true;
        end += 1 + sign;
        digits();
      }
    }
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text), end);
  }

  void string(char quote) {
    std::string text;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\' || i + 1 == source_.size()) {
        text += source_[i];
      } else {
        i = escape(i + 1, text);
      }
    }
    if (i >= source_.size()) fail("a string has no end");
    add(TokenKind::kString, std::move(text), i + 1);
  }

  /// Python's escapes; returns the place of the last character of one.
  size_t escape(size_t i, std::string& text) const {
    static constexpr std::string_view kNames = "nrtabfv0\\'\"", kMeanings = "\n\r\t\a\b\f\v\0\\'\"";
    const char c = source_[i];
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) {
      const std::string hex = source_.substr(i + 1, digits);
      if (hex.size() != digits || hex.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
        fail(std::string("a string has a damaged escape \\") + c);
      append_character(text, static_cast<char32_t>(std::stoul(hex, nullptr, 16)));
      return i + digits;
    }
    if (c == '\n') return i;  // a line that goes on
    const size_t known = kNames.find(c);
    if (known != std::string_view::npos) {
      text += kMeanings[known];
    } else {
      text += '\\';
      text += c;
    }
    return i;
  }

  void operation(std::string& open_brackets) {
    static constexpr std::string_view kLong[] = {"==", "!=", "<=", ">=", "//", "**"};
    for (const std::string_view two : kLong) {
      if (source_.compare(at_, 2, two) == 0) return add(TokenKind::kOperator, std::string(two), at_ + 2);
    }
    const char c = source_[at_];
    if (std::string_view("+-/*%~[](){}<>=.:|,;").find(c) == std::string_view::npos) {
      const std::string_view rest = std::string_view(source_).substr(at_);
      fail("unexpected character `" + std::string(first_character(rest)) + "`");
    }
    if (c == '(' || c == '[' || c == '{') open_brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open_brackets.empty() || open_brackets.back() != c) fail(std::string("unexpected `") + c + "`");
      open_brackets.pop_back();
    }
    add(TokenKind::kOperator, std::string(1, c), at_ + 1);
  }

  std::string source_;
  int& line_;
  size_t at_ = 0;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, int& line) {
  return Lexer(source, line).run();
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kText:
      return "text";
    case TokenKind::kOpenPrint:
      return "the begin of a print statement";
    case TokenKind::kClosePrint:
      return "the end of the print statement";
    case TokenKind::kOpenTag:
      return "the begin of a tag";
    case TokenKind::kCloseTag:
      return "the end of the tag";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return "`" + token.text + "`";
  }
}

}  // namespace msplora::templates
