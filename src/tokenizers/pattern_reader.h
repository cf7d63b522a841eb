#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "tokenizers/oniguruma_sets.h"

namespace msplora::detail {

/// A place in a pattern of Oniguruma's Ruby syntax, and what is read there: characters, escapes and sets in
/// brackets. Everything throws PatternError with the place for what Oniguruma refuses, and by name for what
/// has no translation.
class PatternReader {
 protected:
  // Deep enough for every pattern in use, shallow enough for every stack.
  static constexpr int kDeepest = 200;

  PatternReader(std::string_view pattern, UnicodeTables tables) : pattern_(pattern), tables_(tables) {}

  [[noreturn]] void fail(const std::string& problem) const;
  [[noreturn]] void not_built(const std::string& what) const;

  bool at_end() const { return position_ >= pattern_.size(); }
  char peek(size_t ahead = 0) const {
    return position_ + ahead < pattern_.size() ? pattern_[position_ + ahead] : '\0';
  }
  std::string_view rest() const { return pattern_.substr(std::min(position_, pattern_.size())); }
  bool take(std::string_view text);
  char32_t code_point();

  /// The one character that an escape stands for, from the letter on; `literal_letters` stand for themselves.
  char32_t escaped_character(std::string_view literal_letters);
  /// \p{...}
  CharacterSet property();
  /// Behind "[": the set up to its "]".
  CharacterSet brackets(int depth);

  std::string_view pattern_;
  size_t position_ = 0;
  UnicodeTables tables_;

 private:
  char32_t octal();
  char32_t hexadecimal();
  void check_compiles(const CharacterSet& set, std::string_view name) const;
  void add_to(CharacterSet& set, int depth);
  void add_class(CharacterSet& set, const CharacterSet& other);
  char32_t set_character();
  static void add_range(CharacterSet& set, char32_t first, char32_t last);
  CharacterSet posix_brackets();

  bool holds_complement_ = false;  // whether the set being read holds `[^`
};

}  // namespace msplora::detail
