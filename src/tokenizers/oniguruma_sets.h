#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/young_characters.h"

namespace msplora::detail {

/// A set of characters on its way from Oniguruma to PCRE2, whose classes know neither sets in sets nor
/// intersections: what stands between the brackets of one class, and expressions for further single
/// characters.
struct CharacterSet {
  std::string items;                     // inside [...]
  std::vector<std::string> expressions;  // each matches one character
  bool ascii = true;                     // holds ASCII alone, or characters without case

  bool empty() const { return items.empty() && expressions.empty(); }
  void add(const CharacterSet& other);
  CharacterSet negated() const;
  CharacterSet intersected(const CharacterSet& other) const;
  /// One PCRE2 item that matches a character of the set.
  std::string expression() const;
};

/// One character, as PCRE2 reads it literally inside a class and outside.
std::string pcre2_literal(char32_t c);

/// What the letter of \d, \s, \w or \h stands for outside of brackets, or (`\w` alone differs) inside;
/// nothing for other letters. The upper case letter is the complement.
std::optional<CharacterSet> shorthand_set(char letter, bool in_brackets, UnicodeTables tables);

/// What the name in \p{name} stands for; nothing when it cannot be one. Names that are not Unicode's
/// categories or properties are taken for scripts, and PCRE2 refuses those that it does not know.
std::optional<CharacterSet> property_set(std::string_view name, UnicodeTables tables);

/// What the name in [:name:] stands for; nothing for unknown ones.
std::optional<CharacterSet> posix_set(std::string_view name, UnicodeTables tables);

}  // namespace msplora::detail
