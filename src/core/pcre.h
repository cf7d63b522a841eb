#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace msplora::detail {

/// A pattern that cannot be used: what is wrong, and at which byte of the pattern.
class PatternError : public std::invalid_argument {
 public:
  PatternError(const std::string& problem, size_t offset)
      : std::invalid_argument(problem + " at offset " + std::to_string(offset)) {}
};

/// A compiled PCRE2 pattern, for machine code where the library can. Immutable, cheap to copy, safe to use
/// from many threads. Patterns of other dialects are translated or checked by who calls this.
class PcrePattern {
 public:
  enum class Text {
    kBytes,
    kUnicode,  // texts are well-formed UTF-8; classes follow Unicode
  };
  /// Throws PatternError.
  PcrePattern(const std::string& pattern, Text text);

 private:
  friend class PcreSearch;
  std::shared_ptr<const void> code_;
};

/// The working memory of searches with one pattern, which must outlive it. Belongs to one thread.
class PcreSearch {
 public:
  enum class Where { kAnywhere, kAtStart, kWhole };
  using Range = std::pair<size_t, size_t>;  // bytes [first, second)

  explicit PcreSearch(const PcrePattern& pattern);
  ~PcreSearch();
  PcreSearch(const PcreSearch&) = delete;
  PcreSearch& operator=(const PcreSearch&) = delete;

  /// Looks in `text` from byte `from` on; what lies before it is seen by anchors and lookbehind. Effort is
  /// bounded: throws std::runtime_error when the pattern gives up on this text.
  bool find(std::string_view text, size_t from = 0, Where where = Where::kAnywhere);
  /// Of the last match: the whole of it (0) or a group; nothing when the group took no part.
  std::optional<Range> group(size_t number) const;

 private:
  const void* code_;
  void* match_data_;
};

}  // namespace msplora::detail
