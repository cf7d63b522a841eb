#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

/// Text as Python's str sees it: characters are code points.
namespace msplora::templates {

/// The characters of well-formed UTF-8; a damaged byte is a character of its own.
std::vector<std::string_view> characters(std::string_view text);
size_t count_characters(std::string_view text);
void append_character(std::string& out, char32_t c);
char32_t code_point(std::string_view character);

bool is_space(std::string_view character);
bool is_letter(std::string_view character);
bool is_digit(std::string_view character);
bool is_upper(std::string_view character);
bool is_lower(std::string_view character);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
/// The first character in upper case, the others in lower case.
std::string capitalized(std::string_view text);
/// Letters behind something else in upper case, the others in lower case: Python's str.title.
std::string titled(std::string_view text);

/// Without what `set` holds (empty: white space) at its ends.
std::string_view stripped(std::string_view text, bool left, bool right, std::string_view set = {});

}  // namespace msplora::templates
