#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "tokenizers/json_view.h"

namespace msplora::detail {

struct Match {
  size_t begin = 0;
  size_t end = 0;
};

/// A compiled PCRE2 pattern in UTF and UCP mode. Safe to use from many threads; Searcher is per search.
class Regex {
 public:
  /// Throws Error{kFormat} at `source` when the pattern does not compile.
  Regex(const std::string& pattern, const JsonView& source);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  /// Walks over the matches in one text.
  class Searcher {
   public:
    Searcher(const Regex& regex, std::string_view text);
    ~Searcher();
    Searcher(const Searcher&) = delete;
    Searcher& operator=(const Searcher&) = delete;
    /// The next match, left to right and without overlap; false when there is none. Throws Error{kData} when
    /// the pattern gives up on this text.
    bool next(Match& match);

   private:
    const Regex& regex_;
    std::string_view text_;
    void* match_data_;
    size_t position_ = 0;
  };

 private:
  std::string pattern_;
  std::string where_;
  void* code_ = nullptr;
};

/// What a pattern given as {"String": ...} or {"Regex": ...} looks for.
class Pattern {
 public:
  explicit Pattern(const JsonView& json);
  /// Calls `found(begin, end)` for each match in order.
  template <class Found>
  void for_each(std::string_view text, Found&& found) const {
    if (regex_) {
      Regex::Searcher searcher(*regex_, text);
      for (Match match; searcher.next(match);) found(match.begin, match.end);
    } else if (!literal_.empty()) {
      for (size_t at = text.find(literal_); at != std::string_view::npos;) {
        found(at, at + literal_.size());
        at = text.find(literal_, at + literal_.size());
      }
    }
  }
  /// `text` with every match replaced, appended to `out`.
  void replace(std::string_view text, std::string_view content, std::string& out) const;
  /// The regular expression as written, "" for a literal.
  const std::string& regex_source() const { return regex_source_; }

 private:
  std::string literal_;
  std::string regex_source_;
  std::shared_ptr<const Regex> regex_;
};

}  // namespace msplora::detail
