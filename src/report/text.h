#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace msplora::report {

/// Size of text in units of a plot.
inline constexpr double kTextSize = 12, kTitleSize = 13;

/// Text as it may stand in HTML and XML, between tags and in quotes: & < > " ' as entities, control
/// characters and those that turn the direction of writing spelled out, bytes that are no UTF-8 as U+FFFD.
std::string escaped(std::string_view text);

/// How wide a text is at most in the fonts of usual systems (DejaVu Sans is the widest of them).
double text_width(std::string_view text, double size = kTextSize);

/// The text, or its beginning and "…", at most `width` wide.
std::string cut_to_width(std::string_view text, double width, double size = kTextSize);

/// The text in lines at most `width` wide, broken at spaces; what does not fit `lines` lines is cut.
std::vector<std::string> wrapped(std::string_view text, double width, size_t lines, double size = kTextSize);

/// "-1234567.5" as "-1,234,567.5".
std::string with_commas(const std::string& number);

std::string base64(std::string_view bytes);

}  // namespace msplora::report
