#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace msplora {

/// Ends a text at the first place where one of several strings begins. The text comes in pieces; what may be
/// the beginning of such a string is held back until it is known whether it is one.
class StopStrings {
 public:
  /// Empty strings are left out.
  explicit StopStrings(std::vector<std::string> strings);

  /// More text. Returns what can be shown now: everything before a stop string, or before what may become
  /// one. Nothing after one was found.
  std::string take(std::string_view text);
  bool has_stopped() const { return has_stopped_; }
  /// What is still held back, for a text that ends without a stop string.
  std::string rest();

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool has_stopped_ = false;
};

}  // namespace msplora
