#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace msplora::detail {

/// A regular expression with the semantics of Python's `re`, which PEFT's options are written for (PCRE2
/// underneath; matching effort is bounded, so a pathological pattern fails instead of hanging).
class Regex {
 public:
  /// Throws std::invalid_argument saying what is wrong at which offset.
  explicit Regex(const std::string& pattern);

  /// re.fullmatch
  bool full_match(std::string_view text) const;
  /// re.match: anchored at the start only. The text of group 1 ("" when it did not take part), or nothing.
  std::optional<std::string> match_group(std::string_view text) const;

 private:
  std::shared_ptr<void> code_;
};

/// `text` with every character that means something in a regular expression escaped.
std::string escape_regex(std::string_view text);

}  // namespace msplora::detail
