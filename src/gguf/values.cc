#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/cursor.h"
#include "msplora/gguf/file.h"

namespace msplora {
namespace detail {

uint64_t gguf_value_bytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kU16:
    case GgufValueType::kI16:
      return 2;
    case GgufValueType::kU32:
    case GgufValueType::kI32:
    case GgufValueType::kF32:
      return 4;
    case GgufValueType::kU64:
    case GgufValueType::kI64:
    case GgufValueType::kF64:
      return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
      return 0;
  }
  return 0;
}

const char* gguf_value_name(GgufValueType type) {
  constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                    "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

std::string_view GgufCursor::peek(uint64_t bytes) const {
  return {reinterpret_cast<const char*>(data_) + position_, std::min(bytes, left())};
}

void GgufCursor::skip(uint64_t bytes, const char* what) {
  if (bytes > left()) {
    throw Error(ErrorCode::kFormat, where_,
                fmt::format("the file ends within {}: expected {} bytes at {}, found {}", what, bytes,
                            position_, left()),
                "the file is damaged or cut off; copy or download it again");
  }
  position_ += bytes;
}

std::string_view GgufCursor::text(const char* what) {
  const auto length = number<uint64_t>(what);
  if (length > kGgufMaxLength || length > left()) {
    throw Error(ErrorCode::kFormat, where_,
                fmt::format("{} claims {} bytes at {}, expected at most {}", what, length, position_,
                            std::min(kGgufMaxLength, left())),
                "the file is damaged or cut off; copy or download it again");
  }
  const auto* begin = reinterpret_cast<const char*>(place());
  skip(length, what);
  return {begin, length};
}

}  // namespace detail

namespace {

using Type = GgufValueType;

constexpr uint64_t kMostElements = 1 << 24;  // of arrays that are read as a whole: vocabularies are smaller

template <class T>
T number_at(const GgufValue& value, uint64_t i) {
  T number;
  std::memcpy(&number, value.data + i * sizeof(T), sizeof number);
  return number;
}

bool holds_integers(const GgufValue& value) {
  switch (value.type) {
    case Type::kBool:
    case Type::kString:
    case Type::kArray:
    case Type::kF32:
    case Type::kF64:
      return false;
    default:
      return true;
  }
}

// Values above the range of int64 as its maximum: whatever reads them has lower bounds.
int64_t integer_at(const GgufValue& value, uint64_t i) {
  switch (value.type) {
    case Type::kU8:
      return number_at<uint8_t>(value, i);
    case Type::kI8:
      return number_at<int8_t>(value, i);
    case Type::kU16:
      return number_at<uint16_t>(value, i);
    case Type::kI16:
      return number_at<int16_t>(value, i);
    case Type::kU32:
      return number_at<uint32_t>(value, i);
    case Type::kI32:
      return number_at<int32_t>(value, i);
    case Type::kU64: {
      constexpr auto kLargest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
      return static_cast<int64_t>(std::min(number_at<uint64_t>(value, i), kLargest));
    }
    default:
      return number_at<int64_t>(value, i);
  }
}

double real_at(const GgufValue& value, uint64_t i) {
  if (value.type == Type::kF32) return number_at<float>(value, i);
  if (value.type == Type::kF64) return number_at<double>(value, i);
  return static_cast<double>(integer_at(value, i));
}

bool holds_numbers(const GgufValue& value) {
  return holds_integers(value) || value.type == Type::kF32 || value.type == Type::kF64;
}

std::string found_text(const GgufValue& value) {
  const std::string name = detail::gguf_value_name(value.type);
  return value.is_array ? fmt::format("an array of {} {}", value.count, name) : name;
}

const GgufValue* find_value(const GgufFile& file, std::string_view key) {
  const auto found = file.values().find(key);
  return found == file.values().end() ? nullptr : &found->second;
}

void check_length(const GgufFile& file, std::string_view key, const GgufValue& value) {
  if (value.count > kMostElements)
    file.fail(key, fmt::format("expected at most {} elements, found {}", kMostElements, value.count));
}

[[noreturn]] void fail_kind(const GgufFile& file, std::string_view key, const char* expected,
                            const GgufValue& value) {
  file.fail(key, fmt::format("expected {}, found {}", expected, found_text(value)));
}

}  // namespace

void GgufFile::fail(std::string_view key, const std::string& message, const std::string& hint) const {
  throw Error(ErrorCode::kFormat, path_.string() + ": " + std::string(key), message, hint);
}

void GgufFile::fail_missing(std::string_view key) const {
  std::vector<std::string> keys;
  for (const auto& [name, value] : values_) keys.emplace_back(name.substr(0, 200));
  fail(key, "the key is missing", did_you_mean(key, keys));
}

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || !holds_integers(*value)) fail_kind(*this, key, "an integer", *value);
  return integer_at(*value, 0);
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || !holds_numbers(*value)) fail_kind(*this, key, "a number", *value);
  return real_at(*value, 0);
}

std::optional<bool> GgufFile::flag(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != Type::kBool) fail_kind(*this, key, "true or false", *value);
  return *value->data != std::byte{0};
}

std::optional<std::string_view> GgufFile::text(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != Type::kString) fail_kind(*this, key, "a string", *value);
  const auto length = number_at<uint64_t>(*value, 0);
  return std::string_view(reinterpret_cast<const char*>(value->data) + sizeof length, length);
}

std::optional<std::vector<int64_t>> GgufFile::integers(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (!holds_integers(*value)) fail_kind(*this, key, "integers", *value);
  check_length(*this, key, *value);
  std::vector<int64_t> numbers(value->count);
  for (uint64_t i = 0; i < value->count; ++i) numbers[i] = integer_at(*value, i);
  return numbers;
}

std::optional<std::vector<float>> GgufFile::numbers(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array || !holds_numbers(*value)) fail_kind(*this, key, "an array of numbers", *value);
  check_length(*this, key, *value);
  std::vector<float> numbers(value->count);
  for (uint64_t i = 0; i < value->count; ++i) numbers[i] = static_cast<float>(real_at(*value, i));
  return numbers;
}

std::optional<std::vector<std::string_view>> GgufFile::texts(std::string_view key) const {
  const GgufValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array || value->type != Type::kString) fail_kind(*this, key, "an array of strings", *value);
  check_length(*this, key, *value);
  std::vector<std::string_view> texts(value->count);
  const std::byte* at = value->data;
  for (std::string_view& text : texts) {
    uint64_t length = 0;
    std::memcpy(&length, at, sizeof length);
    text = {reinterpret_cast<const char*>(at) + sizeof length, length};
    at += sizeof length + length;
  }
  return texts;
}

std::vector<int64_t> gguf_end_tokens(const GgufFile& file) {
  constexpr std::string_view kNames[] = {"<|eot_id|>",
                                         "<|im_end|>",
                                         "<|end|>",
                                         "<end_of_turn>",
                                         "<|end_of_text|>",
                                         "<|endoftext|>",
                                         "<EOT>",
                                         "<|eom_id|>",
                                         "<\xEF\xBD\x9C"
                                         "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"};
  std::vector<int64_t> ends;
  const auto add = [&](int64_t id) {
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  };
  const auto tokens = file.texts(gguf_key::kTokens);
  const auto types = file.integers(gguf_key::kTokenTypes);
  const int64_t count = tokens ? static_cast<int64_t>(tokens->size()) : 0;
  for (const char* key : {gguf_key::kEosId, gguf_key::kEotId, gguf_key::kEomId}) {
    const auto id = file.integer(key);
    if (!id) continue;
    if (*id < 0 || (tokens && *id >= count))
      file.fail(key, fmt::format("expected an id below {}, found {}", count, *id));
    add(*id);
  }
  for (int64_t id = 0; id < count; ++id) {
    const auto place = static_cast<size_t>(id);
    // The same letters may be a word of a vocabulary.
    if (types && place < types->size() && (*types)[place] != static_cast<int64_t>(GgufTokenType::kControl))
      continue;
    if (std::find(std::begin(kNames), std::end(kNames), (*tokens)[place]) != std::end(kNames)) add(id);
  }
  return ends;
}

}  // namespace msplora
