#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "msplora/gguf/keys.h"

namespace msplora::detail {

/// Bytes of one value; 0 for strings and arrays, whose length varies.
uint64_t gguf_value_bytes(GgufValueType type);
const char* gguf_value_name(GgufValueType type);

/// Reads from front to back and never beyond the end: throws Error{kFormat} that says what was cut off.
class GgufCursor {
 public:
  GgufCursor(const std::byte* data, uint64_t size, std::string where)
      : data_(data), size_(size), where_(std::move(where)) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return size_ - position_; }
  const std::byte* place() const { return data_ + position_; }
  /// At most `bytes` of what comes.
  std::string_view peek(uint64_t bytes) const;
  void skip(uint64_t bytes, const char* what);
  template <class T>
  T number(const char* what) {
    const std::byte* from = place();
    skip(sizeof(T), what);
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  /// A length and as many bytes.
  std::string_view text(const char* what);

 private:
  const std::byte* data_;
  uint64_t size_;
  uint64_t position_ = 0;
  std::string where_;
};

}  // namespace msplora::detail
