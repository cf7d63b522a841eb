#include "tokenizers/byte_trie.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

namespace msplora::detail {

// A base under which all of `bytes` are free. Places that were often in vain are not looked at again, which
// keeps building linear at the price of a few holes.
uint32_t ByteTrie::place(const std::vector<unsigned char>& bytes, uint32_t node) {
  while (first_free_ < units_.size() && units_[first_free_].parent != kFree) ++first_free_;
  size_t vain = 0;
  for (uint32_t at = std::max<uint32_t>(first_free_, bytes.front() + 1U);; ++at) {
    const uint32_t base = at - bytes.front();
    if (units_.size() < base + 256U) units_.resize(std::max<size_t>(base + 256U, 2 * units_.size()));
    const bool fits = std::all_of(bytes.begin(), bytes.end(),
                                  [&](unsigned char byte) { return units_[base + byte].parent == kFree; });
    if (!fits) {
      if (++vain == 64) first_free_ = at;
      continue;
    }
    for (const unsigned char byte : bytes) units_[base + byte].parent = node;
    return base;
  }
}

ByteTrie::ByteTrie(std::vector<std::pair<std::string_view, int32_t>> entries) : units_(512) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  units_[0].parent = kFree - 1;  // taken, and nobody's child
  std::vector<Range> ranges = {{0, entries.size(), 0, 0}};
  std::vector<unsigned char> bytes;
  std::vector<size_t> begins;
  while (!ranges.empty()) {
    const Range range = ranges.back();
    ranges.pop_back();
    size_t at = range.begin;
    for (; at < range.end && entries[at].first.size() == range.depth; ++at) {
      if (range.depth > 0) units_[range.node].id = entries[at].second;
    }
    bytes.clear();
    begins.clear();
    for (; at < range.end; ++at) {
      const auto byte = static_cast<unsigned char>(entries[at].first[range.depth]);
      if (!bytes.empty() && bytes.back() == byte) continue;
      bytes.push_back(byte);
      begins.push_back(at);
    }
    if (bytes.empty()) continue;
    const uint32_t base = place(bytes, range.node);
    units_[range.node].base = base;
    begins.push_back(range.end);
    for (size_t i = 0; i < bytes.size(); ++i)
      ranges.push_back({begins[i], begins[i + 1], range.depth + 1, base + bytes[i]});
  }
  size_t used = units_.size();
  while (used > 1 && units_[used - 1].parent == kFree) --used;
  units_.resize(used);
  units_.shrink_to_fit();
}

}  // namespace msplora::detail
