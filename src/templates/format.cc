// Python's text % values.
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <string>

#include "templates/builtins.h"
#include "templates/numbers.h"
#include "templates/text.h"

namespace msplora::templates {
namespace {

constexpr size_t kWidest = 200;

/// %[flags][width][.precision]letter.
struct Conversion {
  bool is_left = false, shows_plus = false, leaves_space = false, is_alternate = false, fills_zeros = false;
  size_t width = 0;
  std::optional<size_t> precision;
  char letter = '\0';
};

size_t number_at(const std::string& text, size_t& i) {
  size_t number = 0;
  for (; i < text.size() && is_ascii_digit(text[i]); ++i) {
    number = number * 10 + static_cast<size_t>(text[i] - '0');
    if (number > kWidest) fail("a format is wider than " + std::to_string(kWidest));
  }
  return number;
}

/// Behind the `%` and its name; `i` is moved behind the letter.
Conversion conversion_at(const std::string& text, size_t& i) {
  Conversion made;
  for (; i < text.size(); ++i) {
    bool* flag = text[i] == '-'   ? &made.is_left
                 : text[i] == '+' ? &made.shows_plus
                 : text[i] == ' ' ? &made.leaves_space
                 : text[i] == '#' ? &made.is_alternate
                 : text[i] == '0' ? &made.fills_zeros
                                  : nullptr;
    if (flag == nullptr) break;
    *flag = true;
  }
  made.width = number_at(text, i);
  if (i < text.size() && text[i] == '.') {
    ++i;
    made.precision = number_at(text, i);
  }
  if (i >= text.size()) fail("incomplete format");
  made.letter = text[i++];
  return made;
}

std::string padded(const Conversion& how, const std::string& text) {
  const size_t length = count_characters(text);
  const std::string padding(how.width > length ? how.width - length : 0, ' ');
  return how.is_left ? text + padding : padding + text;
}

/// Of a number's sign, what stands before its digits, and these.
std::string padded_number(const Conversion& how, bool is_negative, const std::string& prefix,
                          std::string digits) {
  const std::string front = (is_negative ? "-" : how.shows_plus ? "+" : how.leaves_space ? " " : "") + prefix;
  const size_t length = front.size() + digits.size();
  if (how.fills_zeros && !how.is_left && how.width > length) digits.insert(0, how.width - length, '0');
  return padded(how, front + digits);
}

std::string of_integer(const Conversion& how, const Value& value) {
  const char letter = static_cast<char>(how.letter | 0x20);
  if (letter != 'd' && letter != 'i' && letter != 'u' && value.is_float())
    fail(std::string("%") + how.letter + " needs a whole number, not float");
  const int64_t number = value.is_float() ? whole(value.number()) : value.integer();
  const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : 10;
  const uint64_t magnitude = number < 0 ? -static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
  char buffer[32];
  std::string digits(buffer, std::to_chars(buffer, buffer + sizeof buffer, magnitude, base).ptr);
  const size_t least = how.precision.value_or(0);
  if (digits.size() < least) digits.insert(0, least - digits.size(), '0');
  std::string prefix = !how.is_alternate || base == 10 ? "" : base == 16 ? "0x" : "0o";
  if (how.letter == 'X') {
    digits = upper(digits);
    prefix = upper(prefix);
  }
  return padded_number(how, number < 0, prefix, std::move(digits));
}

std::string of_float(const Conversion& how, const Value& value) {
  const char style = static_cast<char>(how.letter | 0x20);
  std::string digits =
      float_text(value.number(), style, static_cast<int>(how.precision.value_or(6)), how.is_alternate);
  const bool is_negative = digits.starts_with('-');
  if (is_negative) digits.erase(0, 1);
  if (style != how.letter) digits = upper(digits);
  return padded_number(how, is_negative, "", std::move(digits));
}

std::string converted(const Conversion& how, const Value& value) {
  switch (how.letter) {
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
    case 'f':
    case 'F':
    case 'e':
    case 'E':
    case 'g':
    case 'G': {
      if (!value.is_number())
        fail(std::string("%") + how.letter + " needs a number, not " + value.type_name());
      const bool is_float = std::string_view("fFeEgG").find(how.letter) != std::string_view::npos;
      return is_float ? of_float(how, value) : of_integer(how, value);
    }
    case 's':
    case 'r': {
      std::string text = how.letter == 's' ? value.text() : value.repr();
      if (how.precision) text.resize(place_of_character(text, *how.precision));
      return how.width == 0 ? text : padded(how, text);
    }
    default:
      fail(std::string("unsupported format character `") + how.letter + "`");
  }
}

}  // namespace

Value formatted(const std::string& text, const Value& values) {
  TextMaker out;
  size_t next = 0;
  const auto take = [&]() -> const Value& {
    const size_t count = values.is_tuple() ? values.items().size() : 1;
    if (next >= count) fail("not enough arguments for the format");
    return values.is_tuple() ? values.items()[next++] : (++next, values);
  };
  for (size_t i = 0; i < text.size();) {
    const size_t percent = std::min(text.find('%', i), text.size());
    out.add(std::string_view(text).substr(i, percent - i));
    i = percent + 1;
    if (percent == text.size()) break;
    const Value* named = nullptr;
    if (i < text.size() && text[i] == '(') {
      const size_t end = text.find(')', i);
      if (end == std::string::npos || !values.is_dict()) fail("the format needs a dict");
      named = values.dict().find(std::string_view(text).substr(i + 1, end - i - 1));
      if (named == nullptr) fail("the format names a key that is not there");
      i = end + 1;
    }
    const Conversion how = conversion_at(text, i);
    if (how.letter == '%') {
      out.add('%');
    } else {
      out.add(converted(how, named != nullptr ? *named : take()));
    }
  }
  const bool takes_any = values.is_dict() || (values.is_sequence() && !values.is_tuple());
  if (!takes_any && next < (values.is_tuple() ? values.items().size() : 1))
    fail("not all arguments are used by the format");
  return out;
}

}  // namespace msplora::templates
