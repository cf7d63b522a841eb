#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/strict_json.h"
#include "msplora/io/safetensors.h"

namespace msplora {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

using Location = std::map<std::string, std::shared_ptr<const SafetensorsFile>>;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

bool is_file(const fs::path& path) {
  std::error_code code;
  return fs::is_regular_file(path, code);
}

std::string joined(const std::set<std::string>& names) {
  constexpr size_t kShown = 20;
  std::string text;
  size_t shown = 0;
  for (const std::string& name : names) {
    if (shown++ == kShown) return text + fmt::format(", and {} more", names.size() - kShown);
    text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

[[noreturn]] void fail_without_weights(const fs::path& directory) {
  require_model_directory(directory);
  const std::string where = directory.string();
  std::error_code code;
  const std::string expected = fmt::format("expected {} or {}", kSingle, kIndex);
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (is_file(directory / name)) {
      throw Error(ErrorCode::kIo, where,
                  fmt::format("{}, found only {}, a pickle, which is not read", expected, name),
                  "convert it once with Hugging Face: model = AutoModelFor...from_pretrained(DIR); "
                  "model.save_pretrained(DIR, safe_serialization=True)");
    }
  }
  for (const char* name : {"adapter_model.safetensors", "adapter.safetensors"}) {
    if (is_file(directory / name)) {
      throw Error(ErrorCode::kIo, where,
                  fmt::format("{}, found {}: this is an adapter, not a base model", expected, name),
                  "give the base model's directory as the model and this one as the adapter");
    }
  }
  std::set<std::string> found;
  for (fs::directory_iterator it(directory, code), end; !code && it != end; it.increment(code)) {
    found.insert(it->path().filename().string());
  }
  throw Error(ErrorCode::kIo, where, expected + ", found " + (found.empty() ? "nothing" : joined(found)));
}

// Tensor to shard, as the index says.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const std::string where = path.string();
  const json index = detail::parse_strict_json(read_file(path), where, 16);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw Error(ErrorCode::kFormat, where, "expected an object with a `weight_map` from tensor to file");
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [name, value] : index["weight_map"].items()) {
    const std::string key = where + ": weight_map: `" + name + "`";
    if (!value.is_string()) {
      throw Error(ErrorCode::kFormat, key, "expected a file name, found " + detail::json_excerpt(value));
    }
    const auto shard = value.get<std::string>();
    // A shard lies beside its index; anything else could make us read files elsewhere.
    if (shard.empty() || shard == "." || shard == ".." ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != shard.npos) {
      throw Error(ErrorCode::kFormat, key,
                  "expected the name of a file in the same directory, found " + detail::json_excerpt(value));
    }
    weight_map.emplace(name, shard);
  }
  if (weight_map.empty()) throw Error(ErrorCode::kFormat, where, "`weight_map` names no tensor");
  return weight_map;
}

Location open_shards(const fs::path& directory) {
  const std::string index = (directory / kIndex).string();
  const std::map<std::string, std::string> weight_map = read_index(index);
  std::set<std::string> missing;
  for (const auto& [name, shard] : weight_map) {
    if (missing.count(shard) == 0 && !is_file(directory / shard)) missing.insert(shard);
  }
  if (!missing.empty()) {
    throw Error(
        ErrorCode::kIo, index,
        fmt::format("{} missing: {}", missing.size() == 1 ? "a shard is" : "shards are", joined(missing)),
        "download or copy the rest of the checkpoint");
  }
  Location shards, location;
  std::set<std::string> absent;
  for (const auto& [name, shard] : weight_map) {
    auto& file = shards[shard];
    if (!file) file = SafetensorsFile::open(directory / shard);
    if (file->tensors().count(name) == 0) absent.insert("`" + name + "` in " + shard);
    location.emplace(name, file);
  }
  if (!absent.empty()) {
    throw Error(ErrorCode::kFormat, index,
                "the index names tensors that their shards do not hold: " + joined(absent),
                "index and shards belong to different versions; download both again");
  }
  return location;
}

}  // namespace

void require_model_directory(const fs::path& path) {
  const std::string where = path.string();
  std::error_code code;
  if (path.empty()) throw Error(ErrorCode::kIo, "model", "expected a model directory, found an empty path");
  if (!fs::exists(path, code)) throw Error(ErrorCode::kIo, where, "the model directory does not exist");
  if (fs::is_directory(path, code)) return;
  throw Error(ErrorCode::kIo, where, "expected a model directory, found a file",
              fmt::format("give the directory that holds config.json and {}, or a GGUF file", kSingle));
}

Checkpoint Checkpoint::open(const fs::path& directory) {
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  if (is_file(directory / kSingle)) {
    const auto file = SafetensorsFile::open(directory / kSingle);
    for (const auto& entry : file->tensors()) checkpoint.location_.emplace(entry.first, file);
  } else if (is_file(directory / kIndex)) {
    checkpoint.location_ = open_shards(directory);
  } else {
    fail_without_weights(directory);
  }
  return checkpoint;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& entry : location_) names.push_back(entry.first);
  return names;
}

bool Checkpoint::contains(const std::string& name) const {
  return location_.count(name) != 0;
}

const SafetensorsFile& Checkpoint::file_of(const std::string& name) const {
  const auto found = location_.find(name);
  if (found == location_.end()) {
    throw Error(ErrorCode::kFormat, directory_.string() + ": tensor `" + name + "`",
                "the checkpoint has no such tensor", did_you_mean(name, names()));
  }
  return *found->second;
}

const TensorInfo& Checkpoint::info(const std::string& name) const {
  return file_of(name).tensors().at(name);
}

at::Tensor Checkpoint::tensor(const std::string& name) const {
  return file_of(name).tensor(name);
}

std::shared_ptr<const FrozenWeight> Checkpoint::weight(const std::string& name, at::ScalarType dtype,
                                                       bool is_transposed) const {
  return stored_weight(tensor(name), dtype, is_transposed, /*is_mapped=*/true);
}

}  // namespace msplora
