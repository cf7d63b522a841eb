#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/json_view.h"
#include "tokenizers/normalizers.h"

namespace msplora::detail {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = true;
  bool special = false;
};

/// The entries of tokenizer.json's "added_tokens".
std::vector<AddedToken> read_added_tokens(const JsonView& json);

/// Finds added tokens in text: leftmost, and the longest of those that start there.
class AddedTokenMatcher {
 public:
  struct Part {
    size_t begin, end;
    int32_t id;  // kText for what lies between tokens
  };
  static constexpr int32_t kText = -1;

  /// Looks for those of `tokens` whose `normalized` flag is as given; their contents pass through
  /// `normalizer` first when it is not null.
  AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized, const Normalizer* normalizer);

  /// Appends the parts of `text`, none of them empty, to `parts`.
  void split(std::string_view text, std::vector<Part>& parts) const;

 private:
  const AddedToken* match(std::string_view text, size_t at, size_t& size) const;

  struct Entry {
    std::string pattern;
    AddedToken token;
  };
  std::vector<Entry> entries_;                           // by first byte, then longest first
  std::array<std::pair<size_t, size_t>, 256> ranges_{};  // entries of each first byte
  int first_byte_ = -1;                                  // when all entries begin with the same one
};

}  // namespace msplora::detail
