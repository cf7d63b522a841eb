#include "msplora/io/safetensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <fmt/ranges.h>
#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/foreign_file.h"
#include "core/strict_json.h"
#include "io/safetensors_dtype.h"

namespace msplora {
namespace fs = std::filesystem;
using detail::json_excerpt;
using nlohmann::json;
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors stores little-endian numbers");

constexpr size_t kMaxDimensions = 64;  // what tensor iterators take
constexpr const char* kDamaged = "the file is damaged or not a safetensors file; copy or download it again";

[[noreturn]] void damaged(const std::string& where, const std::string& message,
                          const std::string& hint = kDamaged) {
  throw Error(ErrorCode::kFormat, where, message, hint);
}

std::string tensor_where(const fs::path& path, const std::string& name) {
  return path.string() + ": tensor `" + name + "`";
}

std::string hint_for_foreign_file(const MappedFile& file) {
  const std::string_view start(reinterpret_cast<const char*>(file.data()), std::min<size_t>(file.size(), 64));
  const std::string hint = detail::hint_for_foreign_file(start);
  return hint.empty() || start.substr(8).starts_with("{") ? kDamaged : hint;
}

// The header's text; its length is checked against the file first.
std::string_view header_text(const MappedFile& file, const fs::path& path) {
  const std::string where = path.string();
  if (file.size() < 8) {
    damaged(where,
            fmt::format("expected at least 8 bytes (the length of the header), found {}", file.size()));
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  const uint64_t limit = std::min<uint64_t>(detail::kMaxSafetensorsHeader, file.size() - 8);
  if (length > limit) {
    damaged(where, fmt::format("the header claims to be {} bytes long, expected at most {}", length, limit),
            hint_for_foreign_file(file));
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, length);
  if (text.empty() || text.front() != '{') damaged(where, "expected a header that starts with `{`");
  return text;
}

uint64_t non_negative(const json& value, const std::string& where, const std::string& what) {
  if (!value.is_number_unsigned()) {
    damaged(where, fmt::format("{}: expected a non-negative integer, found {}", what, json_excerpt(value)));
  }
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    damaged(where, fmt::format("{}: expected at most 2^63 - 1, found {}", what, number));
  }
  return number;
}

// Types that the format defines and that we do not compute with.
bool is_foreign_dtype(const std::string& name) {
  for (const char* start : {"F8_", "F6_", "F4", "U16", "U32", "U64", "C64"}) {
    if (name.starts_with(start)) return true;
  }
  return false;
}

at::ScalarType parse_dtype(const json& value, const std::string& where) {
  std::string names;
  for (const auto& dtype : detail::kSafetensorsDtypes) {
    if (value.is_string() && value.get_ref<const std::string&>() == dtype.name) return dtype.type;
    if (!names.empty()) names += ' ';
    names += dtype.name;
  }
  const bool foreign = value.is_string() && is_foreign_dtype(value.get<std::string>());
  damaged(where, fmt::format("dtype: expected one of {}, found {}", names, json_excerpt(value)),
          foreign
              ? "convert the model with Hugging Face: load it in bfloat16 or float32, then save_pretrained"
              : kDamaged);
}

// Bytes that `shape` takes, or an error when they do not fit 63 bits. Zero extents are left out of that bound
// because strides are computed without them.
uint64_t checked_bytes(const std::vector<int64_t>& shape, at::ScalarType dtype, const std::string& where) {
  const auto limit = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t bytes = c10::elementSize(dtype);
  bool empty = false;
  for (const int64_t extent : shape) {
    if (extent == 0) {
      empty = true;
    } else if (bytes > limit / static_cast<uint64_t>(extent)) {
      damaged(where, fmt::format("shape: [{}] is larger than any file", fmt::join(shape, ", ")));
    } else {
      bytes *= static_cast<uint64_t>(extent);
    }
  }
  return empty ? 0 : bytes;
}

std::vector<int64_t> parse_shape(const json& shape, const std::string& where) {
  if (!shape.is_array()) damaged(where, "shape: expected a list, found " + json_excerpt(shape));
  if (shape.size() > kMaxDimensions) {
    damaged(where,
            fmt::format("shape: expected at most {} dimensions, found {}", kMaxDimensions, shape.size()));
  }
  std::vector<int64_t> extents;
  for (const json& extent : shape)
    extents.push_back(static_cast<int64_t>(non_negative(extent, where, "shape")));
  return extents;
}

TensorInfo parse_tensor(const json& entry, const std::string& where, uint64_t data_bytes) {
  if (!entry.is_object()) damaged(where, "expected an object, found " + json_excerpt(entry));
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!entry.contains(key))
      damaged(where, fmt::format("expected the key `{}`, found {}", key, json_excerpt(entry)));
  }
  TensorInfo info;
  info.dtype = parse_dtype(entry["dtype"], where);
  info.shape = parse_shape(entry["shape"], where);
  const json& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) {
    damaged(where, "data_offsets: expected [begin, end], found " + json_excerpt(offsets));
  }
  info.begin = non_negative(offsets[0], where, "data_offsets");
  info.end = non_negative(offsets[1], where, "data_offsets");
  if (info.begin > info.end) {
    damaged(where, fmt::format("data_offsets: expected begin <= end, found [{}, {}]", info.begin, info.end));
  }
  if (info.end > data_bytes) {
    damaged(where,
            fmt::format("data_offsets: expected an end within the {} bytes of data, found [{}, {}]",
                        data_bytes, info.begin, info.end),
            "the file is truncated or damaged; copy or download it again");
  }
  const uint64_t expected = checked_bytes(info.shape, info.dtype, where);
  if (info.end - info.begin != expected) {
    damaged(where, fmt::format("data_offsets: expected {} bytes for shape [{}] of {}, found {}", expected,
                               fmt::join(info.shape, ", "), entry["dtype"].get<std::string>(),
                               info.end - info.begin));
  }
  return info;
}

// The byte ranges must tile the data section: no overlap, no gap, nothing left over.
void check_coverage(const std::map<std::string, TensorInfo>& tensors, uint64_t data_bytes,
                    const fs::path& path) {
  using Entry = std::pair<const std::string, TensorInfo>;
  std::vector<const Entry*> order;
  for (const Entry& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t position = 0;
  const Entry* before = nullptr;
  for (const Entry* entry : order) {
    if (entry->second.begin != position) {
      damaged(tensor_where(path, entry->first),
              fmt::format("data_offsets: expected to begin at {}, found {}: {} {}", position,
                          entry->second.begin, entry->second.begin < position ? "it overlaps" : "a gap after",
                          before != nullptr ? "tensor `" + before->first + "`" : "the header"));
    }
    position = entry->second.end;
    before = entry;
  }
  if (position != data_bytes) {
    damaged(path.string(),
            fmt::format("expected {} bytes of data after the header (what its tensors take), found {}",
                        position, data_bytes));
  }
}

std::map<std::string, std::string> parse_metadata(const json& entry, const fs::path& path) {
  const std::string where = path.string() + ": __metadata__";
  if (!entry.is_object()) damaged(where, "expected an object of strings, found " + json_excerpt(entry));
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string())
      damaged(where, fmt::format("`{}`: expected a string, found {}", key, json_excerpt(value)));
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

// Any byte but 0 and 1 in a bool is undefined behaviour for whoever reads it.
void check_bools(const std::byte* data, size_t count, const std::string& where) {
  const auto* bad = std::find_if(data, data + count, [](std::byte value) { return value > std::byte{1}; });
  if (bad != data + count) {
    damaged(where, fmt::format("expected bytes 0 and 1 in a BOOL tensor, found {} at element {}",
                               std::to_integer<int>(*bad), bad - data));
  }
}

}  // namespace

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const fs::path& path) {
  std::shared_ptr<SafetensorsFile> result(new SafetensorsFile);
  result->path_ = path;
  result->file_ = MappedFile::open(path);
  const std::string_view text = header_text(*result->file_, path);
  result->data_offset_ = 8 + text.size();
  const uint64_t data_bytes = result->file_->size() - result->data_offset_;
  const json header = detail::parse_strict_json(text, path.string() + ": header", 3, kDamaged);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      result->metadata_ = parse_metadata(entry, path);
    } else {
      result->tensors_.emplace(name, parse_tensor(entry, tensor_where(path, name), data_bytes));
    }
  }
  check_coverage(result->tensors_, data_bytes, path);
  return result;
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    std::vector<std::string> names;
    for (const auto& entry : tensors_) names.push_back(entry.first);
    throw Error(ErrorCode::kFormat, tensor_where(path_, name), "the file has no such tensor",
                did_you_mean(name, names));
  }
  const TensorInfo& info = found->second;
  const auto options = at::TensorOptions().dtype(info.dtype);
  const size_t bytes = info.end - info.begin;
  if (bytes == 0) return at::empty(info.shape, options);
  const std::byte* data = file_->data() + data_offset_ + info.begin;
  if (info.dtype == at::kBool) check_bools(data, bytes, tensor_where(path_, name));
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(info.dtype) != 0) {
    at::Tensor copy = at::empty(info.shape, options);
    std::memcpy(copy.data_ptr(), data, bytes);
    return copy;
  }
  return at::from_blob(
      const_cast<std::byte*>(data), info.shape, [keep = file_](void*) {}, options);
}

}  // namespace msplora
