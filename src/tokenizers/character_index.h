#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

namespace msplora::detail {

/// Where the characters of a text begin, to count in characters in place of bytes. A damaged part counts as
/// the U+FFFD that it is read as.
class CharacterIndex {
 public:
  explicit CharacterIndex(std::string_view text);
  size_t character(size_t byte) const;
  size_t byte(size_t character) const;

 private:
  std::vector<size_t> character_of_;  // by byte
  std::vector<size_t> starts_;
};

/// The index of a text, made when it is first read: once for all windows of the text, and not at all where
/// nobody counts in characters.
class LazyCharacterIndex {
 public:
  explicit LazyCharacterIndex(std::string_view text) : text_(text) {}
  const CharacterIndex& operator*() {
    if (!index_) index_.emplace(text_);
    return *index_;
  }

 private:
  std::string_view text_;
  std::optional<CharacterIndex> index_;
};

}  // namespace msplora::detail
