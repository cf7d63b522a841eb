#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace msplora::templates {

/// The places of a part (not empty) in a text, one after the other and not overlapping, from either end. All
/// of them together are found in time linear in both, whatever they hold, and paid for at the start. Both
/// must outlive this.
class Places {
 public:
  Places(std::string_view text, std::string_view part, bool from_right = false);
  Places(const Places&) = delete;
  Places& operator=(const Places&) = delete;

  static constexpr size_t kNone = std::string_view::npos;
  /// The byte that the next one begins at.
  size_t next();

 private:
  std::string reversed_text_, reversed_part_;  // where it is searched from the right
  std::string_view text_, part_;
  bool from_right_;
  size_t at_ = 0;
};

}  // namespace msplora::templates
