#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace msplora::detail {

/// One field of a protobuf message, as it stands in the bytes.
struct ProtobufField {
  enum class Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  uint64_t number = 0;
  Wire wire = Wire::kVarint;
  uint64_t value = 0;      // of a varint or a fixed number
  std::string_view bytes;  // of kBytes: a view into the message
  size_t at = 0;           // where the field begins in the message

  bool boolean() const { return expect(Wire::kVarint).value != 0; }
  int32_t integer() const { return static_cast<int32_t>(expect(Wire::kVarint).value); }
  float real() const {
    const auto bits = static_cast<uint32_t>(expect(Wire::kFixed32).value);
    float result = 0;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }
  std::string_view text() const { return expect(Wire::kBytes).bytes; }

 private:
  const ProtobufField& expect(Wire wanted) const {
    if (wire != wanted) {
      throw std::invalid_argument("field " + std::to_string(number) + " at byte " + std::to_string(at) +
                                  " has wire type " + std::to_string(static_cast<int>(wire)) + ", expected " +
                                  std::to_string(static_cast<int>(wanted)));
    }
    return *this;
  }
};

/// Reads the fields of a protobuf message one after another, without copies. Throws std::invalid_argument,
/// saying what and where, when the bytes are no message.
class ProtobufReader {
 public:
  explicit ProtobufReader(std::string_view message) : message_(message) {}

  /// Nothing at the end.
  std::optional<ProtobufField> next() {
    if (at_ == message_.size()) return std::nullopt;
    ProtobufField field;
    field.at = at_;
    const uint64_t key = varint();
    field.number = key >> 3;
    field.wire = static_cast<ProtobufField::Wire>(key & 7);
    if (field.number == 0) fail("a field without number", field.at);
    switch (field.wire) {
      case ProtobufField::Wire::kVarint:
        field.value = varint();
        break;
      case ProtobufField::Wire::kFixed64:
        field.value = fixed(8);
        break;
      case ProtobufField::Wire::kFixed32:
        field.value = fixed(4);
        break;
      case ProtobufField::Wire::kBytes:
        field.bytes = take(varint());
        break;
      default:
        fail("unknown wire type " + std::to_string(key & 7), field.at);
    }
    return field;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at_ == message_.size()) fail("a number is cut off", at_);
      const auto byte = static_cast<unsigned char>(message_[at_++]);
      if (shift < 64) value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number of more than ten bytes", at_);
  }
  uint64_t fixed(size_t size) {
    uint64_t value = 0;
    const std::string_view bytes = take(size);
    for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
    return value;
  }
  std::string_view take(uint64_t size) {
    if (size > message_.size() - at_) {
      fail("expected " + std::to_string(size) + " more bytes, found " + std::to_string(message_.size() - at_),
           at_);
    }
    at_ += static_cast<size_t>(size);
    return message_.substr(at_ - static_cast<size_t>(size), static_cast<size_t>(size));
  }
  [[noreturn]] static void fail(const std::string& what, size_t at) {
    throw std::invalid_argument(what + " at byte " + std::to_string(at));
  }

  std::string_view message_;
  size_t at_ = 0;
};

}  // namespace msplora::detail
