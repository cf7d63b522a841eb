#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "io/safetensors_dtype.h"
#include "msplora/io/safetensors_bytes.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

struct Item {
  const NamedTensor* entry;
  size_t rank;  // of its dtype in kSafetensorsDtypes
};

size_t dtype_rank(at::ScalarType dtype, const std::string& where) {
  for (size_t rank = 0; rank < detail::kSafetensorsDtypes.size(); ++rank) {
    if (detail::kSafetensorsDtypes[rank].type == dtype) return rank;
  }
  throw Error(ErrorCode::kUsage, where,
              fmt::format("safetensors files hold no tensors of dtype {}", c10::toString(dtype)));
}

// Checked, and in the order of the file.
std::vector<Item> sorted_items(const std::vector<NamedTensor>& tensors, const fs::path& path) {
  std::set<std::string> names;
  std::vector<Item> items;
  for (const NamedTensor& entry : tensors) {
    const std::string where = path.string() + ": tensor `" + entry.name + "`";
    if (entry.name == "__metadata__")
      throw Error(ErrorCode::kUsage, where, "the name is reserved by the format");
    if (!names.insert(entry.name).second) throw Error(ErrorCode::kUsage, where, "the name is given twice");
    if (!entry.tensor.defined()) throw Error(ErrorCode::kUsage, where, "the tensor is undefined");
    if (entry.tensor.layout() != at::kStrided)
      throw Error(ErrorCode::kUsage, where, "expected a dense tensor");
    items.push_back({&entry, dtype_rank(entry.tensor.scalar_type(), where)});
  }
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.rank != b.rank ? a.rank < b.rank : a.entry->name < b.entry->name;
  });
  return items;
}

std::string make_header(const std::vector<Item>& items, const std::map<std::string, std::string>& metadata,
                        const fs::path& path) {
  using Json = nlohmann::ordered_json;
  Json header = Json::object();
  // Appended without ordered_json's linear search for an existing key: the names are unique.
  auto& entries = header.get_ref<Json::object_t&>();
  if (!metadata.empty()) entries.emplace_back("__metadata__", metadata);
  size_t offset = 0;
  for (const Item& item : items) {
    const at::Tensor& tensor = item.entry->tensor;
    const size_t end = offset + static_cast<size_t>(tensor.numel()) * tensor.element_size();
    Json entry = Json::object();
    entry["dtype"] = std::string(detail::kSafetensorsDtypes[item.rank].name);
    entry["shape"] = tensor.sizes().vec();
    entry["data_offsets"] = std::vector<size_t>{offset, end};
    entries.emplace_back(item.entry->name, std::move(entry));
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kUsage, path.string(),
                std::string("names and metadata must be valid UTF-8: ") + error.what());
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > detail::kMaxSafetensorsHeader) {
    throw Error(ErrorCode::kUsage, path.string(),
                fmt::format("names and metadata take {} bytes, readers accept at most {}", text.size(),
                            detail::kMaxSafetensorsHeader));
  }
  return text;
}

void write_content(std::ostream& out, const std::string& header, const std::vector<Item>& items) {
  const uint64_t length = header.size();
  char prefix[sizeof length];
  std::memcpy(prefix, &length, sizeof length);
  out.write(prefix, sizeof prefix);
  out.write(header.data(), static_cast<std::streamsize>(header.size()));
  for (const Item& item : items) {
    const at::Tensor dense = item.entry->tensor.detach().cpu().resolve_neg().contiguous();
    if (dense.nbytes() > 0) {
      out.write(static_cast<const char*>(dense.data_ptr()), static_cast<std::streamsize>(dense.nbytes()));
    }
    if (!out) return;  // write_file_atomically reports why
  }
}

}  // namespace

void write_safetensors(const fs::path& path, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::vector<Item> items = sorted_items(tensors, path);
  const std::string header = make_header(items, metadata, path);
  write_file_atomically(path, [&](std::ostream& out) { write_content(out, header, items); });
}

std::string to_safetensors(const std::vector<NamedTensor>& tensors,
                           const std::map<std::string, std::string>& metadata) {
  const fs::path where = "safetensors";
  const std::vector<Item> items = sorted_items(tensors, where);
  std::ostringstream out;
  write_content(out, make_header(items, metadata, where), items);
  return std::move(out).str();
}

}  // namespace msplora
