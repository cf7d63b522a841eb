#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace msplora::detail {

inline uint64_t mix_hash(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9E3779B97F4A7C15ULL;
  return hash ^ hash >> 32;
}

inline uint64_t hash_bytes(std::string_view text) {
  const char* p = text.data();
  size_t left = text.size();
  uint64_t hash = left * 0xD6E8FEB86659FD93ULL;
  uint64_t word = 0;
  for (; left >= 8; p += 8, left -= 8) {
    std::memcpy(&word, p, 8);
    hash = mix_hash(hash, word);
  }
  if (left >= 4) {
    uint32_t low, high;
    std::memcpy(&low, p, 4);
    std::memcpy(&high, p + left - 4, 4);
    hash = mix_hash(hash, static_cast<uint64_t>(high) << 32 | low);
  } else if (left > 0) {
    word = static_cast<unsigned char>(p[0]) |
           static_cast<uint64_t>(static_cast<unsigned char>(p[left / 2])) << 8 |
           static_cast<uint64_t>(static_cast<unsigned char>(p[left - 1])) << 16;
    hash = mix_hash(hash, word);
  }
  return mix_hash(hash, 0);
}

/// Strings to numbers, open addressing in one block; the strings lie end to end in an arena.
class StringTable {
 public:
  static constexpr int32_t kNone = -1;

  /// The value of `key`, or kNone.
  int32_t find(std::string_view key) const {
    if (slots_.empty()) return kNone;
    const uint64_t hash = hash_bytes(key);
    for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.value == kNone) return kNone;
      if (slot.hash == static_cast<uint32_t>(hash >> 32) && text(slot) == key) return slot.value;
    }
  }

  /// Sets the value (not negative) of `key`; true when the key is new.
  bool set(std::string_view key, int32_t value);
  size_t size() const { return size_; }

 private:
  struct Slot {
    uint32_t hash = 0;
    uint32_t size = 0;
    uint64_t offset = 0;
    int32_t value = kNone;
  };

  std::string_view text(const Slot& slot) const { return {arena_.data() + slot.offset, slot.size}; }
  void grow();

  std::string arena_;
  std::vector<Slot> slots_;
  size_t mask_ = 0;
  size_t size_ = 0;
};

/// Tokens and their ids in both directions.
class Vocabulary {
 public:
  /// Ids above this are refused: they would mean gigabytes of empty entries.
  static constexpr int32_t kLargestId = 1 << 26;

  /// Gives `token` the id; an id may have one token and a token one id, the later call winning.
  void set(std::string_view token, int32_t id);
  std::optional<int32_t> find(std::string_view token) const {
    const int32_t id = table_.find(token);
    return id == StringTable::kNone ? std::nullopt : std::optional<int32_t>(id);
  }
  /// One more than the largest id.
  size_t size() const { return tokens_.size(); }
  bool has(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < size() && used_[static_cast<size_t>(id)];
  }
  const std::string& token(int32_t id) const { return tokens_[static_cast<size_t>(id)]; }
  const StringTable& table() const { return table_; }

 private:
  StringTable table_;
  std::vector<std::string> tokens_;
  std::vector<bool> used_;
};

/// Ids of the tokens <0x00> to <0xFF>, which stand for bytes; StringTable::kNone where there is none.
std::array<int32_t, 256> byte_pieces(const Vocabulary& vocabulary);

}  // namespace msplora::detail
