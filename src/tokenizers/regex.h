#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/pcre.h"
#include "tokenizers/json_view.h"
#include "tokenizers/unicode.h"
#include "tokenizers/young_characters.h"

namespace msplora::detail {

/// A pattern of tokenizer.json (Oniguruma's Ruby syntax). Safe to use from many threads.
class TextPattern {
 public:
  /// Throws Error{kFormat} at `source` when the pattern is wrong or has parts that are not built.
  TextPattern(const std::string& pattern, const JsonView& source);

  /// Calls `found(begin, end)` for each match, left to right and without overlap, as Oniguruma's find_iter:
  /// no empty match right behind another one. Throws Error{kData} when the pattern gives up on this text.
  template <class Found>
  void for_each(std::string_view text, Found&& found) const {
    PcreSearch search(exact_ && has_young_characters(text) ? *exact_ : usual_);
    size_t last_end = std::string_view::npos;
    for (size_t from = 0; from <= text.size() && find(search, text, from);) {
      const auto [begin, end] = *search.group(0);
      if (begin == end && end == last_end) {
        from += from < text.size() ? utf8_length(text[from]) : 1;
        continue;
      }
      from = last_end = end;
      found(begin, end);
    }
  }

 private:
  TextPattern(const std::string& usual, const std::string& exact, const JsonView& source);
  bool find(PcreSearch& search, std::string_view text, size_t from) const;

  PcrePattern usual_;                 // by the library's own tables
  std::optional<PcrePattern> exact_;  // for texts that these do not know; unset where it would be the same
  std::string where_;
};

/// What a pattern given as {"String": ...} or {"Regex": ...} looks for.
class Pattern {
 public:
  explicit Pattern(const JsonView& json);
  /// Calls `found(begin, end)` for each match in order.
  template <class Found>
  void for_each(std::string_view text, Found&& found) const {
    if (text.empty()) return;  // which holds nothing, not even an empty match
    if (regex_) {
      regex_->for_each(text, found);
    } else if (!literal_.empty()) {
      for (size_t at = text.find(literal_); at != std::string_view::npos;) {
        found(at, at + literal_.size());
        at = text.find(literal_, at + literal_.size());
      }
    }
  }
  /// `text` with every match replaced, appended to `out`.
  void replace(std::string_view text, std::string_view content, std::string& out) const;

 private:
  std::string literal_;
  std::optional<TextPattern> regex_;
};

}  // namespace msplora::detail
