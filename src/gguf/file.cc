#include "msplora/gguf/file.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/foreign_file.h"
#include "gguf/cursor.h"

namespace msplora {
namespace fs = std::filesystem;
using detail::GgufCursor;

namespace {

static_assert(std::endian::native == std::endian::little,
              "GGUF files that are read hold little-endian numbers");

constexpr uint64_t kSmallestKey = 8 + 1 + 4 + 1;         // length, a letter, type, a byte
constexpr uint64_t kSmallestTensor = 8 + 1 + 4 + 4 + 8;  // length, a letter, dimensions, type, offset

[[noreturn]] void fail_at(const std::string& where, const std::string& message,
                          const std::string& hint = {}) {
  throw Error(ErrorCode::kFormat, where, message, hint);
}

std::string quoted(std::string_view name) {
  constexpr size_t kShown = 80;
  return name.size() <= kShown ? fmt::format("`{}`", name) : fmt::format("`{}...`", name.substr(0, kShown));
}

struct Header {
  uint64_t tensors = 0, values = 0;
};

Header read_header(GgufCursor& cursor, const fs::path& path) {
  const std::string where = path.string();
  const std::string_view start = cursor.peek(64);
  if (!start.starts_with(kGgufMagic)) {
    const std::string hint = detail::hint_for_foreign_file(start);
    fail_at(where, "expected a GGUF file, which begins with the letters GGUF",
            hint.empty() ? "copy or download it again" : hint);
  }
  cursor.skip(4, "the letters GGUF");
  const auto version = cursor.number<uint32_t>("the version");
  if ((version & 0xFFFF) == 0)
    fail_at(where, "the file holds big-endian numbers, expected little-endian ones",
            "convert the model again on the machine that it is for");
  if (version != 2 && version != kGgufVersion) {
    fail_at(where, fmt::format("expected GGUF version 2 or 3, found {}", version),
            version == 1 ? "convert the model again with a newer converter" : "");
  }
  Header header;
  const auto count = [&](const char* what, uint64_t smallest) {
    const auto found = cursor.number<int64_t>(what);
    const uint64_t most = std::min<uint64_t>(kGgufMaxEntries, cursor.left() / smallest);
    if (found < 0 || static_cast<uint64_t>(found) > most) {
      fail_at(where,
              fmt::format("{}: expected at most {} in the {} bytes that follow, found {}", what, most,
                          cursor.left(), found),
              "the file is damaged or cut off; copy or download it again");
    }
    return static_cast<uint64_t>(found);
  };
  header.tensors = count("the number of tensors", kSmallestTensor);
  header.values = count("the number of keys", kSmallestKey);
  return header;
}

// The value behind a key; strings are walked over, everything stays where it is.
GgufValue read_value(GgufCursor& cursor, const std::string& where) {
  const auto type_of = [&](const char* what) {
    const auto id = cursor.number<int32_t>(what);
    if (id < 0 || id > static_cast<int32_t>(GgufValueType::kF64))
      fail_at(where, fmt::format("{}: expected a number from 0 to 12, found {}", what, id));
    return static_cast<GgufValueType>(id);
  };
  GgufValue value;
  value.type = type_of("the type of the value");
  if (value.type == GgufValueType::kArray) {
    value.is_array = true;
    value.type = type_of("the type of the array's elements");
    if (value.type == GgufValueType::kArray) fail_at(where, "arrays of arrays are not read");
    value.count = cursor.number<uint64_t>("the length of the array");
    const uint64_t size = value.type == GgufValueType::kString ? 8 : detail::gguf_value_bytes(value.type);
    if (value.count > kGgufMaxLength || value.count > cursor.left() / size) {
      fail_at(where,
              fmt::format("the array claims {} elements, expected at most {} in the {} bytes that follow",
                          value.count, std::min(kGgufMaxLength, cursor.left() / size), cursor.left()));
    }
  }
  value.data = cursor.place();
  if (value.type == GgufValueType::kString) {
    for (uint64_t i = 0; i < value.count; ++i) cursor.text("a string");
    return value;
  }
  const std::byte* begin = value.data;
  cursor.skip(value.count * detail::gguf_value_bytes(value.type), "the value");
  if (value.type == GgufValueType::kBool) {
    const auto* odd = std::find_if(begin, cursor.place(), [](std::byte b) { return b > std::byte{1}; });
    if (odd != cursor.place())
      fail_at(where, fmt::format("expected 0 or 1 for true or false, found {}", static_cast<int>(*odd)));
  }
  return value;
}

// Shape and type; data and place come later. `offset` as the file has it.
GgufTensor read_tensor(GgufCursor& cursor, const std::string& file, uint64_t& offset) {
  GgufTensor tensor;
  tensor.name = cursor.text("the name of a tensor");
  const std::string where = file + ": tensor " + quoted(tensor.name);
  if (tensor.name.empty() || tensor.name.size() > static_cast<size_t>(kGgufMaxName)) {
    fail_at(where,
            fmt::format("expected a name of 1 to {} bytes, found {}", kGgufMaxName, tensor.name.size()));
  }
  const auto dimensions = cursor.number<uint32_t>("the dimensions of a tensor");
  if (dimensions > kGgufMaxDimensions)
    fail_at(where, fmt::format("expected at most {} dimensions, found {}", kGgufMaxDimensions, dimensions));
  tensor.dimensions = static_cast<int32_t>(dimensions);
  uint64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto extent = cursor.number<int64_t>("the shape of a tensor");
    if (extent < 0) fail_at(where, fmt::format("expected sizes of at least 0, found {}", extent));
    constexpr auto kLargest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (extent > 0 && elements > kLargest / 16 / static_cast<uint64_t>(extent))
      fail_at(where, "its shape is larger than any file");
    elements *= static_cast<uint64_t>(extent);
    tensor.extents[i] = extent;
    if (extent == 0) elements = 0;
  }
  const auto id = cursor.number<int32_t>("the type of a tensor");
  offset = cursor.number<uint64_t>("the offset of a tensor");
  const GgufTypeInfo* info = find_gguf_type(id);
  if (info == nullptr) {
    fail_at(where, "tensors of " + gguf_type_text(id) + " are not read",
            "types that are read: " + known_gguf_types());
  }
  tensor.type = info->type;
  if (tensor.extents[0] % info->elements != 0) {
    fail_at(where, fmt::format("expected rows in whole blocks of {} as {} has them, found rows of {}",
                               info->elements, info->name, tensor.extents[0]));
  }
  tensor.bytes = elements / static_cast<uint64_t>(info->elements) * static_cast<uint64_t>(info->bytes);
  return tensor;
}

uint64_t padded(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

std::vector<int64_t> GgufTensor::shape() const {
  std::vector<int64_t> sizes;
  for (int32_t i = dimensions; i-- > 0;) sizes.push_back(extents[static_cast<size_t>(i)]);
  return sizes;
}

int64_t GgufTensor::elements() const {
  return extents[0] * extents[1] * extents[2] * extents[3];
}

bool is_gguf_path(const fs::path& path) {
  std::error_code code;
  if (!fs::is_regular_file(path, code)) return false;
  if (path.extension() == ".gguf") return true;
  std::ifstream in(path, std::ios::binary);
  char start[4] = {};
  return in.read(start, sizeof start) && std::string_view(start, sizeof start) == kGgufMagic;
}

std::shared_ptr<const GgufFile> GgufFile::open(const fs::path& path) {
  std::shared_ptr<GgufFile> file(new GgufFile);
  file->path_ = path;
  file->read_part(path, /*is_first=*/true);
  file->read_other_parts();
  return file;
}

void GgufFile::read_part(const fs::path& path, bool is_first) {
  auto map = MappedFile::open(path);
  const std::string where = path.string();
  GgufCursor cursor(map->data(), map->size(), where);
  const Header header = read_header(cursor, path);
  std::map<std::string_view, GgufValue> values;
  for (uint64_t i = 0; i < header.values; ++i) {
    const std::string_view key = cursor.text("a key");
    if (key.empty()) fail_at(where, "a key is empty");
    const std::string key_where = where + ": " + quoted(key);
    if (!values.emplace(key, read_value(cursor, key_where)).second)
      fail_at(key_where, "the key is there twice");
  }
  // Of the parts of one file the first has the keys, the others those of the split alone.
  if (is_first) values_ = std::move(values);
  const auto found = values_.find(gguf_key::kAlignment);
  const auto alignment = found == values_.end() ? std::optional<int64_t>() : integer(gguf_key::kAlignment);
  if (alignment && (*alignment < 1 || !std::has_single_bit(static_cast<uint64_t>(*alignment))))
    fail(gguf_key::kAlignment, fmt::format("expected a power of two, found {}", *alignment));
  const auto step = static_cast<uint64_t>(alignment.value_or(kGgufAlignment));

  const size_t first = tensors_.size();
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < header.tensors; ++i) {
    uint64_t offset = 0;
    tensors_.push_back(read_tensor(cursor, where, offset));
    offsets.push_back(offset);
  }
  const uint64_t data = padded(cursor.position(), step);
  const uint64_t room = map->size() > data ? map->size() - data : 0;
  uint64_t expected = 0;
  for (size_t i = 0; i < offsets.size(); ++i) {
    GgufTensor& tensor = tensors_[first + i];
    const std::string tensor_where = where + ": tensor " + quoted(tensor.name);
    if (offsets[i] != expected) {
      fail_at(tensor_where,
              fmt::format("expected its data at {}, behind those before it, found {}", expected, offsets[i]));
    }
    if (tensor.bytes > room || expected > room - tensor.bytes) {
      fail_at(tensor_where,
              fmt::format("its {} bytes from {} on lie beyond the file's end: {} bytes of data are there",
                          tensor.bytes, expected, room),
              "the file is cut off; copy or download it again");
    }
    tensor.data = map->data() + data + expected;
    expected += padded(tensor.bytes, step);
    if (!places_.emplace(tensor.name, first + i).second)
      fail_at(tensor_where, "a tensor of this name is there twice");
  }
  parts_.push_back(std::move(map));
}

void GgufFile::read_other_parts() {
  const int64_t count = integer(gguf_key::kSplitCount).value_or(1);
  if (count <= 1) return;
  const int64_t number = need(integer(gguf_key::kSplitNumber), gguf_key::kSplitNumber);
  constexpr int64_t kMostParts = 99999;
  if (count > kMostParts || number < 0 || number >= count)
    fail(gguf_key::kSplitNumber, fmt::format("expected a part of {}, found {}", count, number));
  const std::string end = fmt::format("-{:05}-of-{:05}.gguf", number + 1, count);
  const std::string name = path_.filename().string();
  if (!name.ends_with(end)) {
    throw Error(ErrorCode::kFormat, path_.string(),
                fmt::format("this is part {} of {}, expected a name that ends in {}", number + 1, count, end),
                "give the parts back their names, or join them with llama.cpp's gguf-split --merge");
  }
  const std::string stem = name.substr(0, name.size() - end.size());
  const auto part = [&](int64_t i) {
    return path_.parent_path() / (stem + fmt::format("-{:05}-of-{:05}.gguf", i + 1, count));
  };
  std::string missing;
  for (int64_t i = 0; i < count; ++i) {
    std::error_code code;
    if (fs::exists(part(i), code)) continue;
    missing += (missing.empty() ? "" : ", ") + part(i).filename().string();
    if (missing.size() > 500) {
      missing += ", ...";
      break;
    }
  }
  if (!missing.empty())
    throw Error(ErrorCode::kIo, path_.string(), "parts of the model are missing: " + missing,
                "copy or download them beside it");
  // From the beginning, as the first part has the keys, whichever was named.
  values_.clear();
  tensors_.clear();
  places_.clear();
  parts_.clear();
  path_ = part(0);
  for (int64_t i = 0; i < count; ++i) read_part(part(i), i == 0);
  const auto total = integer(gguf_key::kSplitTensors);
  if (total && *total != static_cast<int64_t>(tensors_.size())) {
    fail(gguf_key::kSplitTensors,
         fmt::format("expected the {} tensors of all parts, found {}", tensors_.size(), *total),
         "the parts belong to different files");
  }
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace msplora
