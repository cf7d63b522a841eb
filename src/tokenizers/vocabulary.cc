#include "tokenizers/vocabulary.h"

#include <array>
#include <string_view>
#include <vector>

#include "tokenizers/byte_pieces.h"

namespace msplora::detail {

bool StringTable::set(std::string_view key, int32_t value) {
  if (2 * (size_ + 1) > slots_.size()) grow();
  const uint64_t hash = hash_bytes(key);
  for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
    Slot& slot = slots_[at];
    if (slot.value == kNone) {
      slot = {static_cast<uint32_t>(hash >> 32), static_cast<uint32_t>(key.size()), arena_.size(), value};
      arena_.append(key);
      ++size_;
      return true;
    }
    if (slot.hash == static_cast<uint32_t>(hash >> 32) && text(slot) == key) {
      slot.value = value;
      return false;
    }
  }
}

void StringTable::grow() {
  std::vector<Slot> old(slots_.empty() ? 64 : 2 * slots_.size());
  old.swap(slots_);
  mask_ = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.value == kNone) continue;
    size_t at = hash_bytes(text(slot)) & mask_;
    while (slots_[at].value != kNone) at = (at + 1) & mask_;
    slots_[at] = slot;
  }
}

void Vocabulary::set(std::string_view token, int32_t id) {
  table_.set(token, id);
  const auto index = static_cast<size_t>(id);
  if (index >= tokens_.size()) {
    tokens_.resize(index + 1);
    used_.resize(index + 1);
  }
  tokens_[index] = token;
  used_[index] = true;
}

std::array<int32_t, 256> byte_pieces(const Vocabulary& vocabulary) {
  std::array<int32_t, 256> ids{};
  for (size_t byte = 0; byte < ids.size(); ++byte)
    ids[byte] = vocabulary.table().find(byte_piece(static_cast<uint8_t>(byte)));
  return ids;
}

}  // namespace msplora::detail
