#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace msplora::detail {

/// Strings to ids, read byte by byte: finds every string that begins at a place of a text. A double array.
class ByteTrie {
 public:
  /// Empty strings are left out; of equal ones the last counts.
  explicit ByteTrie(std::vector<std::pair<std::string_view, int32_t>> entries);

  /// Calls `found(size, id)` for every entry that `text` begins with, shortest first.
  template <class Found>
  void for_each_prefix(std::string_view text, Found&& found) const {
    size_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const size_t next = units_[node].base + static_cast<unsigned char>(text[i]);
      if (next >= units_.size() || units_[next].parent != node) return;
      node = next;
      if (units_[node].id >= 0) found(i + 1, units_[node].id);
    }
  }

 private:
  static constexpr uint32_t kFree = 0xFFFFFFFFU;
  struct Unit {
    uint32_t base = 0;
    uint32_t parent = kFree;
    int32_t id = -1;
  };

  // Sorted entries [begin, end) that share their first `depth` bytes, which lead to `node`.
  struct Range {
    size_t begin, end, depth;
    uint32_t node;
  };
  uint32_t place(const std::vector<unsigned char>& bytes, uint32_t node);

  std::vector<Unit> units_;
  uint32_t first_free_ = 1;
};

}  // namespace msplora::detail
