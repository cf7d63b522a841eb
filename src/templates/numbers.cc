#include "templates/numbers.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <system_error>

#include "templates/budget.h"
#include "templates/text.h"

namespace msplora::templates {
namespace {

/// Without white space around it and single underscores between digits; the sign apart.
struct Digits {
  std::string text;
  bool is_negative = false;
};

std::optional<Digits> digits_of(std::string_view text, bool (*is_digit)(char)) {
  text = stripped(text, true, true);
  Budget::charge(text.size());
  Digits digits;
  if (text.starts_with('-') || text.starts_with('+')) {
    digits.is_negative = text.front() == '-';
    text.remove_prefix(1);
  }
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits.text += text[i];
    } else if (i == 0 || i + 1 == text.size() || !is_digit(text[i - 1]) || !is_digit(text[i + 1])) {
      return std::nullopt;
    }
  }
  return digits;
}

/// Of a number that no double holds: whether it is too large rather than too small.
bool is_beyond(std::string_view number) {
  const size_t e = std::min(number.find_first_of("eE"), number.size());
  const std::string_view mantissa = number.substr(0, e);
  const auto point = static_cast<int64_t>(std::min(mantissa.find('.'), mantissa.size()));
  const auto first = static_cast<int64_t>(std::min(mantissa.find_first_of("123456789"), mantissa.size()));
  if (e == number.size()) return point > first;
  std::string_view exponent = number.substr(e + 1);
  if (exponent.starts_with('+')) exponent.remove_prefix(1);
  int64_t power = 0;
  constexpr int64_t kFar = int64_t{1} << 60;
  if (std::from_chars(exponent.data(), exponent.data() + exponent.size(), power).ec != std::errc())
    return !exponent.starts_with('-');
  return std::clamp(power, -kFar, kFar) + point - first > 0;
}

}  // namespace

void refuse_large() {
  fail("a whole number is too large: they go up to 9223372036854775807");
}

std::optional<double> parsed_float(std::string_view text) {
  const auto digits = digits_of(text, is_ascii_digit);
  // Python knows no payload in `nan(...)`, and a second sign is none of a number.
  if (!digits || digits->text.empty() || digits->text.front() == '-' || digits->text.back() == ')')
    return std::nullopt;
  const std::string& number = digits->text;
  double value = 0;
  const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (code == std::errc::invalid_argument || end != number.data() + number.size()) return std::nullopt;
  if (code == std::errc::result_out_of_range) value = is_beyond(number) ? HUGE_VAL : 0.0;
  return digits->is_negative ? -value : value;
}

std::optional<int64_t> parsed_integer(std::string_view text, int base) {
  const auto digits = digits_of(text, is_ascii_alphanumeric);
  if (!digits) return std::nullopt;
  std::string number = digits->text;
  const char prefix = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : '\0';
  if (prefix != '\0' && number.size() > 2 && number[0] == '0' && (number[1] | 0x20) == prefix)
    number.erase(0, 2);
  if (number.empty() || !is_ascii_alphanumeric(number.front())) return std::nullopt;
  if (digits->is_negative) number.insert(0, 1, '-');
  int64_t value = 0;
  const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), value, base);
  if (code == std::errc::invalid_argument || end != number.data() + number.size()) return std::nullopt;
  if (code == std::errc::result_out_of_range) refuse_large();
  return value;
}

int64_t whole(double value) {
  if (std::isnan(value)) fail("cannot convert float NaN to integer");
  if (std::isinf(value)) fail("cannot convert float infinity to integer");
  constexpr double kEnd = 9223372036854775808.0;
  if (value < -kEnd || value >= kEnd) refuse_large();
  return static_cast<int64_t>(value);
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string text(buffer, end);
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) return text;
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
  text.assign(buffer, fixed);
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

std::string float_text(double value, char style, int precision, bool keeps_zeros) {
  if (!std::isfinite(value)) return float_text(value);
  const auto printed = [&](std::chars_format format, int digits) {
    char buffer[600];  // 309 before the point and 200 behind it
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, format, digits).ptr;
    std::string text(buffer, end);
    if (digits == 0 && keeps_zeros) text.insert(std::min(text.find('e'), text.size()), ".");
    return text;
  };
  if (style == 'f') return printed(std::chars_format::fixed, precision);
  if (style == 'e') return printed(std::chars_format::scientific, precision);
  const int digits = std::max(precision, 1);
  std::string text = printed(std::chars_format::scientific, digits - 1);
  const int exponent = std::atoi(text.c_str() + text.find('e') + 1);
  if (exponent >= -4 && exponent < digits) text = printed(std::chars_format::fixed, digits - 1 - exponent);
  if (keeps_zeros || text.find('.') == std::string::npos) return text;
  size_t end = std::min(text.find('e'), text.size());
  size_t kept = end;
  while (text[kept - 1] == '0') --kept;
  if (text[kept - 1] == '.') --kept;
  return text.erase(kept, end - kept);
}

}  // namespace msplora::templates
