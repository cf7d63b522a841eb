#pragma once

#include <string_view>
#include <unordered_set>

#include "tokenizers/unicode.h"

namespace msplora::detail {

/// SentencePiece's sign for a space, U+2581.
inline constexpr std::string_view kWordStart = "\xE2\x96\x81";

/// Where a line without spaces, as SentencePiece writes it, may be cut into words: before a word start,
/// unless some merge joins the character before it with the word start. No merge crosses such a place, so the
/// parts by themselves give the tokens of the whole.
class WordStarts {
 public:
  /// Takes note of a merge; every merge of a model must be told.
  void add_merge(std::string_view left, std::string_view right) {
    if (right.starts_with(kWordStart) && !left.empty())
      joined_.insert(code_point_before(left.data() + left.size()));
  }
  void disable() { enabled_ = false; }

  /// The first such place behind byte `from`; text.size() when there is none.
  size_t next(std::string_view text, size_t from) const {
    if (!enabled_) return text.size();
    for (size_t at = text.find(kWordStart, from + 1); at != std::string_view::npos;
         at = text.find(kWordStart, at + 1)) {
      if (!joined_.contains(code_point_before(text.data() + at))) return at;
    }
    return text.size();
  }

 private:
  bool enabled_ = true;
  std::unordered_set<char32_t> joined_;  // last characters of what joins with a word start
};

}  // namespace msplora::detail
