#include "tokenizers/character_index.h"

#include <algorithm>
#include <string_view>

#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

// The maximal ill-formed part, as valid_utf8() has it.
size_t damaged_size(std::string_view text) {
  size_t size = 1;
  while (size < 3 && size < text.size() && finished_size(text.substr(0, size)) == 0 &&
         finished_size(text.substr(0, size + 1)) == 0) {
    ++size;
  }
  return size;
}

}  // namespace

CharacterIndex::CharacterIndex(std::string_view text) : character_of_(text.size() + 1) {
  for (size_t at = 0; at < text.size();) {
    size_t size = well_formed_size(text.substr(at));
    if (size == 0) size = damaged_size(text.substr(at));
    for (size_t i = at; i < at + size; ++i) character_of_[i] = starts_.size();
    starts_.push_back(at);
    at += size;
  }
  character_of_[text.size()] = starts_.size();
  starts_.push_back(text.size());
}

size_t CharacterIndex::character(size_t byte) const {
  return character_of_[std::min(byte, character_of_.size() - 1)];
}

size_t CharacterIndex::byte(size_t character) const {
  return starts_[std::min(character, starts_.size() - 1)];
}

}  // namespace msplora::detail
