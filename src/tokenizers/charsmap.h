#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace msplora::detail {

/// The replacement rules of a SentencePiece normaliser ("precompiled_charsmap"): a Darts-clone double array
/// over the bytes of what is replaced, and the replacements. Layout: the size of the trie in bytes (u32), its
/// units (u32), then the replacements, each ended by NUL; all numbers little endian.
class Charsmap {
 public:
  struct Match {
    size_t size;                   // bytes that are replaced
    std::string_view replacement;  // well-formed UTF-8; a view into this map
  };

  /// No rules at all.
  Charsmap() = default;
  /// Throws std::invalid_argument, saying what is wrong, when the bytes are no such map. Whatever they hold,
  /// the functions below read nothing outside of it.
  explicit Charsmap(std::string_view bytes);

  /// The shortest beginning of `text` that has a rule, which is what Hugging Face's library takes.
  std::optional<Match> shortest(std::string_view text) const { return find(text, true); }
  /// The longest one, which is what SentencePiece takes.
  std::optional<Match> longest(std::string_view text) const { return find(text, false); }
  bool empty() const { return units_.empty(); }

 private:
  std::optional<Match> find(std::string_view text, bool first) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace msplora::detail
