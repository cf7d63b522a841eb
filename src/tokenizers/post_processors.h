#pragma once

#include <cstdint>
#include <vector>

#include "tokenizers/json_view.h"

namespace msplora::detail {

/// How the tokens of one text or a pair are put together. All of Hugging Face's post-processors that change
/// ids are special cases of this; ByteLevel only changes offsets, which are not kept here.
struct PostProcessor {
  enum class Kind { kSpecial, kFirst, kSecond };
  struct Item {
    Kind kind;
    int32_t type_id;
    std::vector<int32_t> ids;  // of a special item
  };
  std::vector<Item> single = {{Kind::kFirst, 0, {}}};
  std::vector<Item> pair = {{Kind::kFirst, 0, {}}, {Kind::kSecond, 1, {}}};

  /// Special tokens that are added around one text or a pair.
  size_t added(bool is_pair) const;
};

/// The component described by `json` (tokenizer.json's "post_processor").
PostProcessor make_post_processor(const JsonView& json);

}  // namespace msplora::detail
