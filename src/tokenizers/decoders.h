#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokenizers/json_view.h"

namespace msplora::detail {

/// Turns tokens into the parts of a text; the parts are joined without anything between them.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual void apply(std::vector<std::string>& tokens) const = 0;
};

/// The component described by `json` (tokenizer.json's "decoder").
std::unique_ptr<const Decoder> make_decoder(const JsonView& json);

}  // namespace msplora::detail
