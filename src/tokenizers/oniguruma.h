#pragma once

#include <string>
#include <string_view>

#include "tokenizers/young_characters.h"

namespace msplora::detail {

/// A pattern in Oniguruma's Ruby syntax, which tokenizer.json's patterns are written in, as a PCRE2 pattern
/// (UTF, UCP, line end LF) that matches the same. PCRE2 would compile most such patterns as they are and read
/// some of them otherwise: `&&` and `[` inside sets, `^`, `$`, `(?m)`, `\h`, `\w`, `\s`, `\b`, `{,n}`,
/// `{n}?`,
/// `{n,m}+`, `\p{Script}`, `\Q`.
///
/// Throws PatternError for what Oniguruma refuses too, and, by name, for what has no translation: back
/// references, calls, conditions, absence (`(?~`), `\G`, `\K`, `\X`, `\y`, control and meta characters, and
/// without regard to case those strings that also stand for one character ("ss", which is `\u00df`) and sets
/// of more than ASCII, complements of complements that Oniguruma's own tables get wrong. Groups do not
/// capture in the result.
///
/// With kOfLibrary the result is shorter and faster, and right for texts without young characters.
std::string oniguruma_to_pcre2(std::string_view pattern, UnicodeTables tables = UnicodeTables::kUnicode16);

}  // namespace msplora::detail
