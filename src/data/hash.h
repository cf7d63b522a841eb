#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "msplora/core/random.h"

namespace msplora {

/// A fast 64-bit hash for checksums and cache keys (not against adversaries). Feeding the same bytes in other
/// pieces gives another value.
class ContentHash {
 public:
  void add(const void* data, size_t size) {
    const char* bytes = static_cast<const char*>(data);
    uint64_t word;
    size_t i = 0;
    for (; i + sizeof(word) <= size; i += sizeof(word)) {
      std::memcpy(&word, bytes + i, sizeof(word));
      step(word);
    }
    word = 0;
    std::memcpy(&word, bytes + i, size - i);
    step(word);
    step(size);
  }
  void add(std::string_view text) { add(text.data(), text.size()); }
  void add_value(uint64_t value) { step(value); }
  uint64_t value() const { return mix_seed(state_, 0); }

 private:
  void step(uint64_t word) {
    state_ = (state_ ^ word) * 0x9FB21C651E98DF25ull;
    state_ ^= state_ >> 32;
  }
  uint64_t state_ = 0x243F6A8885A308D3ull;
};

}  // namespace msplora
