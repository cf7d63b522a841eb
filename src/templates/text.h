#pragma once

#include <cstddef>
#include <iterator>
#include <string>
#include <string_view>

/// Text as Python's str sees it: characters are code points.
namespace msplora::templates {

/// The characters of well-formed UTF-8, read as they are asked for; a damaged byte is a character of its own.
class Characters {
 public:
  class iterator {
   public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using pointer = const std::string_view*;
    using reference = std::string_view;

    iterator() = default;
    explicit iterator(std::string_view rest) : rest_(rest) { read(); }
    std::string_view operator*() const { return rest_.substr(0, size_); }
    iterator& operator++() {
      rest_.remove_prefix(size_);
      read();
      return *this;
    }
    iterator operator++(int) {
      iterator old = *this;
      ++*this;
      return old;
    }
    bool operator==(const iterator& other) const { return rest_.size() == other.rest_.size(); }

   private:
    void read();
    std::string_view rest_;
    size_t size_ = 0;
  };

  explicit Characters(std::string_view text) : text_(text) {}
  iterator begin() const { return iterator(text_); }
  iterator end() const { return iterator(text_.substr(text_.size())); }

 private:
  std::string_view text_;
};

inline Characters characters(std::string_view text) {
  return Characters(text);
}
/// Empty of an empty text.
std::string_view first_character(std::string_view text);
std::string_view last_character(std::string_view text);
size_t count_characters(std::string_view text);
/// The byte that this character begins at, counted from 0; the size of the text where it has fewer.
size_t place_of_character(std::string_view text, size_t index);
void append_character(std::string& out, char32_t c);
char32_t code_point(std::string_view character);

// Unlike those of <cctype> not of the program's locale.
constexpr bool is_ascii_digit(char c) {
  return c >= '0' && c <= '9';
}
constexpr bool is_ascii_alphanumeric(char c) {
  return is_ascii_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

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
