#include "tokenizers/charsmap.h"

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

uint32_t read_little_endian(const char* p) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(p[i]);
  return value;
}

// A unit of a Darts-clone double array.
constexpr uint32_t kIsValue = 0x80000000U;
uint32_t label_of(uint32_t unit) {
  return unit & 0x800000FFU;
}
bool has_leaf(uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}
uint32_t offset_of(uint32_t unit) {
  return (unit >> 10) << ((unit & 0x200U) >> 6);
}

}  // namespace

Charsmap::Charsmap(std::string_view bytes) {
  if (bytes.empty()) return;
  if (bytes.size() < 4) throw std::invalid_argument("expected at least 4 bytes");
  const size_t size = read_little_endian(bytes.data());
  if (size == 0 || size % 4 != 0 || size > bytes.size() - 4) {
    throw std::invalid_argument("a trie of " + std::to_string(size) + " bytes does not fit into the " +
                                std::to_string(bytes.size() - 4) + " bytes behind its size");
  }
  units_.resize(size / 4);
  for (size_t i = 0; i < units_.size(); ++i) units_[i] = read_little_endian(bytes.data() + 4 + 4 * i);
  replacements_ = bytes.substr(4 + size);
  // Everything after this may rely on replacements that lie inside and are text.
  std::string buffer;
  for (const uint32_t unit : units_) {
    if (!(unit & kIsValue)) continue;
    const size_t begin = unit & ~kIsValue;
    const size_t end = begin < replacements_.size() ? replacements_.find('\0', begin) : std::string::npos;
    if (end == std::string::npos) throw std::invalid_argument("a replacement lies outside of the data");
    const auto text = std::string_view(replacements_).substr(begin, end - begin);
    if (valid_utf8(text, buffer).data() != text.data())
      throw std::invalid_argument("a replacement is not well-formed UTF-8");
  }
}

std::optional<Charsmap::Match> Charsmap::find(std::string_view text, bool first) const {
  std::optional<Match> found;
  if (units_.empty()) return found;
  size_t at = offset_of(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    at ^= byte;
    if (at >= units_.size() || label_of(units_[at]) != byte) break;
    const uint32_t unit = units_[at];
    at ^= offset_of(unit);
    if (!has_leaf(unit) || at >= units_.size() || !(units_[at] & kIsValue)) continue;
    const size_t begin = units_[at] & ~kIsValue;
    found = Match{i + 1, std::string_view(replacements_.data() + begin)};
    if (first) break;
  }
  return found;
}

}  // namespace msplora::detail
