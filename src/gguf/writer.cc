#include "msplora/gguf/writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <ostream>
#include <string>
#include <vector>

#include "gguf/cursor.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/gguf/quantise.h"

namespace msplora {
namespace {

/// The machine is little-endian, as the format is.
template <typename T>
void append(std::string& bytes, T value) {
  char raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);
  bytes.append(raw, sizeof value);
}

void append_text(std::string& bytes, std::string_view text) {
  append(bytes, static_cast<uint64_t>(text.size()));
  bytes.append(text);
}

std::string array_of(GgufValueType type, size_t count) {
  std::string bytes;
  append(bytes, static_cast<int32_t>(type));
  append(bytes, static_cast<uint64_t>(count));
  return bytes;
}

int64_t rows_of(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end() - 1, int64_t{1}, std::multiplies<>());
}

int64_t padding(int64_t size) {
  return (kGgufAlignment - size % kGgufAlignment) % kGgufAlignment;
}

/// Bytes of `count` values that lie in a file.
size_t stored_bytes(const GgufValue& value) {
  if (value.type != GgufValueType::kString) return detail::gguf_value_bytes(value.type) * value.count;
  size_t bytes = 0;
  for (uint64_t i = 0; i < value.count; ++i) {
    uint64_t length = 0;
    std::memcpy(&length, value.data + bytes, sizeof length);
    bytes += sizeof length + length;
  }
  return bytes;
}

}  // namespace

void GgufWriter::put(std::string_view key, GgufValueType type, const std::string& value) {
  std::string bytes;
  append(bytes, static_cast<int32_t>(type));
  bytes += value;
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.first == key; });
  if (found != entries_.end()) {
    found->second = std::move(bytes);
  } else {
    entries_.emplace_back(key, std::move(bytes));
  }
}

void GgufWriter::set(std::string_view key, std::string_view text) {
  std::string bytes;
  append_text(bytes, text);
  put(key, GgufValueType::kString, bytes);
}

void GgufWriter::set_integer(std::string_view key, int64_t value) {
  if (value < 0 || value > std::numeric_limits<uint32_t>::max())
    throw Error(ErrorCode::kUsage, std::string(key), fmt::format("GGUF has no place for {} here", value));
  std::string bytes;
  append(bytes, static_cast<uint32_t>(value));
  put(key, GgufValueType::kU32, bytes);
}

void GgufWriter::set_number(std::string_view key, double value) {
  std::string bytes;
  append(bytes, static_cast<float>(value));
  put(key, GgufValueType::kF32, bytes);
}

void GgufWriter::set_flag(std::string_view key, bool value) {
  put(key, GgufValueType::kBool, std::string(1, value ? '\1' : '\0'));
}

void GgufWriter::set_texts(std::string_view key, const std::vector<std::string>& values) {
  std::string bytes = array_of(GgufValueType::kString, values.size());
  for (const std::string& value : values) append_text(bytes, value);
  put(key, GgufValueType::kArray, bytes);
}

void GgufWriter::set_numbers(std::string_view key, const std::vector<float>& values) {
  std::string bytes = array_of(GgufValueType::kF32, values.size());
  for (const float value : values) append(bytes, value);
  put(key, GgufValueType::kArray, bytes);
}

void GgufWriter::set_integers(std::string_view key, const std::vector<int32_t>& values) {
  std::string bytes = array_of(GgufValueType::kI32, values.size());
  for (const int32_t value : values) append(bytes, value);
  put(key, GgufValueType::kArray, bytes);
}

void GgufWriter::copy(const GgufFile& file, std::string_view key) {
  const auto found = file.values().find(key);
  if (found == file.values().end()) return;
  const GgufValue& value = found->second;
  std::string bytes = value.is_array ? array_of(value.type, value.count) : std::string();
  bytes.append(reinterpret_cast<const char*>(value.data), stored_bytes(value));
  put(key, value.is_array ? GgufValueType::kArray : value.type, bytes);
}

void GgufWriter::add(const std::string& name, GgufType type, std::vector<int64_t> shape, GgufRows rows) {
  const auto fail = [&](const std::string& message) {
    throw Error(ErrorCode::kUsage, fmt::format("GGUF tensor {}", name), message);
  };
  if (name.empty() || static_cast<int64_t>(name.size()) > kGgufMaxName)
    fail(fmt::format("a name has 1 to {} bytes", kGgufMaxName));
  const bool is_there =
      std::any_of(tensors_.begin(), tensors_.end(), [&](const Tensor& t) { return t.name == name; });
  if (is_there) fail("is written twice");
  if (shape.empty() || static_cast<int64_t>(shape.size()) > kGgufMaxDimensions ||
      std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size <= 0; }))
    fail(fmt::format("has 1 to {} dimensions, none of them 0", kGgufMaxDimensions));
  const GgufTypeInfo& info = gguf_type_info(type);
  if (shape.back() % info.elements != 0)
    fail(fmt::format("a row of {} elements is not whole blocks of {}", shape.back(), info.name));
  tensors_.push_back({name, type, std::move(shape), std::move(rows)});
}

std::string GgufWriter::header() const {
  std::string bytes = kGgufMagic;
  append(bytes, kGgufVersion);
  append(bytes, static_cast<int64_t>(tensors_.size()));
  append(bytes, static_cast<int64_t>(entries_.size()));
  for (const auto& [key, value] : entries_) {
    append_text(bytes, key);
    bytes += value;
  }
  int64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    append_text(bytes, tensor.name);
    append(bytes, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) append(bytes, tensor.shape[i]);
    append(bytes, static_cast<int32_t>(tensor.type));
    append(bytes, static_cast<uint64_t>(offset));
    const int64_t size = gguf_bytes(tensor.type, rows_of(tensor.shape) * tensor.shape.back());
    offset += size + padding(size);
  }
  bytes.append(static_cast<size_t>(padding(static_cast<int64_t>(bytes.size()))), '\0');
  return bytes;
}

void GgufWriter::write(const std::filesystem::path& path) const {
  constexpr int64_t kElementsAtOnce = int64_t{1} << 20;
  write_file_atomically(path, [&](std::ostream& out) {
    const std::string start = header();
    out.write(start.data(), static_cast<std::streamsize>(start.size()));
    std::vector<float> values;
    std::string blocks;
    for (const Tensor& tensor : tensors_) {
      const int64_t rows = rows_of(tensor.shape), row = tensor.shape.back();
      const int64_t at_once = std::max<int64_t>(1, kElementsAtOnce / row);
      for (int64_t begin = 0; begin < rows; begin += at_once) {
        const int64_t end = std::min(rows, begin + at_once), elements = (end - begin) * row;
        values.resize(static_cast<size_t>(elements));
        tensor.rows(begin, end, values.data());
        blocks.resize(static_cast<size_t>(gguf_bytes(tensor.type, elements)));
        try {
          quantise(tensor.type, values.data(), elements, reinterpret_cast<std::byte*>(blocks.data()));
        } catch (const Error& error) {
          throw Error(error.code(), fmt::format("{}: {}", path.string(), tensor.name), error.message(),
                      error.hint());
        }
        out.write(blocks.data(), static_cast<std::streamsize>(blocks.size()));
      }
      const std::string fill(static_cast<size_t>(padding(gguf_bytes(tensor.type, rows * row))), '\0');
      out.write(fill.data(), static_cast<std::streamsize>(fill.size()));
    }
  });
}

}  // namespace msplora
