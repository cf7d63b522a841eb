#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "msplora/tokenizers/tokenizer.h"
#include "tokenizers/json_view.h"

namespace msplora::detail {

/// How the tokens of one text or a pair are put together. All of Hugging Face's post-processors are special
/// cases of this.
struct PostProcessor {
  enum class Kind { kSpecial, kFirst, kSecond };
  struct Item {
    Kind kind;
    int32_t type_id;
    std::vector<int32_t> ids;  // of a special item
  };
  std::vector<Item> single = {{Kind::kFirst, 0, {}}};
  std::vector<Item> pair = {{Kind::kFirst, 0, {}}, {Kind::kSecond, 1, {}}};

  /// Whether tokens do not count the spaces at their ends to their offsets (ByteLevel and RoBERTa), and
  /// whether the space before the first one was put there and so takes nothing away.
  bool trims_offsets = false;
  bool keeps_first_space = false;
  /// Takes the spaces of `token` away from its span, which counts characters.
  void trim(std::string_view token, bool is_first, TextSpan& span) const;

  /// Special tokens that are added around one text or a pair.
  size_t added(bool is_pair) const;
};

/// The component described by `json` (tokenizer.json's "post_processor").
PostProcessor make_post_processor(const JsonView& json);

}  // namespace msplora::detail
