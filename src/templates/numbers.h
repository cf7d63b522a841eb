#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// Numbers as Python reads and prints them, whatever the locale of the program is.
namespace msplora::templates {

/// Where whole numbers of 64 bits end; Python's do not.
[[noreturn]] void refuse_large();

/// As float(text): nothing where it is no number.
std::optional<double> parsed_float(std::string_view text);
/// As int(text, base), base from 2 to 36: nothing where it is no whole number. Fails for one that is too
/// large.
std::optional<int64_t> parsed_integer(std::string_view text, int base = 10);
/// As int(value). Fails for one that is too large and for what is no number.
int64_t whole(double value);

/// 1.0, 0.1, 1e+20.
std::string float_text(double value);
/// With so many digits behind the point (up to 200): of 'f', 'e' or 'g' as printf's.
std::string float_text(double value, char style, int precision, bool keeps_zeros = false);

}  // namespace msplora::templates
