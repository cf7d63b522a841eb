#pragma once

#include <string>
#include <string_view>

namespace msplora::detail {

/// Whose tables of Unicode a translated pattern goes by.
enum class UnicodeTables {
  kOfLibrary,  // PCRE2's own, of the day it was made: Unicode 14 in Debian 12
  kUnicode16,  // Oniguruma's. Slower, and needed for texts with young characters alone
};

/// What Unicode 15, 15.1 and 16 put into a class, as items of a PCRE2 class to stand beside \p{NAME}: of a
/// general category ("Lu", "L"), a property or a script ("alphabetic", "sc:han", in lower case without
/// spaces). "" for those that stayed as they were; every character of theirs for the name "".
/// Source: UnicodeData.txt, DerivedCoreProperties.txt, PropList.txt, emoji-data.txt and Scripts.txt.
std::string young_items(std::string_view name);

/// What they took out of a class.
std::string dropped_items(std::string_view name);

/// Whether the text (well-formed UTF-8) holds a character on which the two disagree.
bool has_young_characters(std::string_view text);

}  // namespace msplora::detail
