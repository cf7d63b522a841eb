#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/pcre.h"

namespace msplora::detail {

/// A regular expression with the semantics of Python's `re`, which PEFT's options are written for. Matching
/// effort is bounded: a pathological pattern fails instead of hanging.
class PythonPattern {
 public:
  /// Throws std::invalid_argument saying what is wrong at which offset.
  explicit PythonPattern(const std::string& pattern);

  /// re.fullmatch; this and the next throw std::invalid_argument when the effort is exceeded.
  bool full_match(std::string_view text) const;
  /// re.match: anchored at the start only. The text of group 1 ("" when it did not take part), or nothing.
  std::optional<std::string> match_group(std::string_view text) const;

 private:
  PcrePattern compiled_;
};

/// `text` with every character that means something in a regular expression escaped.
std::string escape_regex(std::string_view text);

}  // namespace msplora::detail
