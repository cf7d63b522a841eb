#include "msplora/train/checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/strict_json.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

constexpr char kPrefix[] = "checkpoint-";
constexpr char kHidden[] = ".checkpoint-";
constexpr char kTrainable[] = "trainable.safetensors";
constexpr char kOptimizer[] = "optimizer.safetensors";
constexpr char kState[] = "state.json";
constexpr int kFormatVersion = 1;

std::optional<int64_t> step_of(const fs::path& directory) {
  const std::string name = directory.filename().string();
  const size_t prefix = std::strlen(kPrefix);
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + prefix, end, step);
  if (error != std::errc() || stop != end) return std::nullopt;
  return step;
}

void sync_directory(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

void rename_directory(const fs::path& from, const fs::path& to) {
  std::error_code code;
  fs::rename(from, to, code);
  if (code)
    throw Error(ErrorCode::kIo, to.string(), "cannot rename " + from.string() + ": " + code.message());
}

nlohmann::json read_state(const fs::path& directory) {
  const fs::path path = directory / kState;
  nlohmann::json json = detail::parse_strict_json(read_file(path), path.string());
  if (!json.is_object() || json.value("format", 0) != kFormatVersion) {
    throw Error(ErrorCode::kFormat, path.string(),
                fmt::format("expected the state of a checkpoint of format {}", kFormatVersion));
  }
  return json;
}

/// Whether every file is there with the size that state.json records.
bool is_complete(const fs::path& directory) {
  try {
    const nlohmann::json state = read_state(directory);
    for (const auto& [name, size] : state.at("files").items()) {
      if (fs::file_size(directory / name) != size.get<uintmax_t>()) return false;
    }
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

std::vector<NamedTensor> read_tensors(const fs::path& path) {
  std::vector<NamedTensor> tensors;
  const auto file = SafetensorsFile::open(path);
  for (const auto& [name, info] : file->tensors()) tensors.push_back({name, file->tensor(name).clone()});
  return tensors;
}

}  // namespace

CheckpointStore::CheckpointStore(fs::path run_directory) : directory_(std::move(run_directory)) {}

fs::path CheckpointStore::path(int64_t step) const {
  return directory_ / (kPrefix + std::to_string(step));
}

std::vector<int64_t> CheckpointStore::steps() const {
  std::vector<int64_t> steps;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(directory_, code)) {
    const auto step = step_of(entry.path());
    if (step && is_complete(entry.path())) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

void CheckpointStore::save(const TrainingCheckpoint& checkpoint) {
  const fs::path target = path(checkpoint.state.step);
  const fs::path hidden = directory_ / fmt::format("{}{}.new", kHidden, checkpoint.state.step);
  fs::remove_all(hidden);
  try {
    fs::create_directories(hidden);
    write_safetensors(hidden / kTrainable, checkpoint.trainable);
    write_safetensors(hidden / kOptimizer, checkpoint.optimizer);
    nlohmann::json json = {{"format", kFormatVersion},
                           {"run", run_state_to_json(checkpoint.state)},
                           {"adapter_state", checkpoint.adapter_state},
                           {"recipe", checkpoint.recipe},
                           {"data_fingerprint", checkpoint.data_fingerprint},
                           {"base_fingerprint", checkpoint.base_fingerprint},
                           {"files",
                            {{kTrainable, fs::file_size(hidden / kTrainable)},
                             {kOptimizer, fs::file_size(hidden / kOptimizer)}}}};
    write_file_atomically(hidden / kState, json.dump(2) + "\n");
    sync_directory(hidden);
    if (fs::exists(target))
      rename_directory(target, directory_ / fmt::format("{}{}.old", kHidden, checkpoint.state.step));
    rename_directory(hidden, target);
    sync_directory(directory_);
  } catch (const fs::filesystem_error& problem) {
    fs::remove_all(hidden);
    throw Error(ErrorCode::kIo, target.string(),
                std::string("cannot write the checkpoint: ") + problem.what());
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(hidden, ignored);
    throw;
  }
  remove_leftovers();
}

TrainingCheckpoint CheckpointStore::load(int64_t step) const {
  const fs::path directory = path(step);
  const nlohmann::json json = read_state(directory);
  const std::string where = (directory / kState).string();
  TrainingCheckpoint checkpoint;
  try {
    checkpoint.state = run_state_from_json(json.at("run"), where);
    checkpoint.adapter_state = json.at("adapter_state");
    checkpoint.recipe = json.at("recipe");
    json.at("data_fingerprint").get_to(checkpoint.data_fingerprint);
    json.at("base_fingerprint").get_to(checkpoint.base_fingerprint);
  } catch (const nlohmann::json::exception& problem) {
    throw Error(ErrorCode::kFormat, where, std::string("not the state of a checkpoint: ") + problem.what());
  }
  checkpoint.trainable = read_tensors(directory / kTrainable);
  checkpoint.optimizer = read_tensors(directory / kOptimizer);
  return checkpoint;
}

std::vector<NamedTensor> CheckpointStore::load_trainable(int64_t step) const {
  return read_tensors(path(step) / kTrainable);
}

void CheckpointStore::prune(int64_t keep, int64_t best_step) {
  const std::vector<int64_t> all = steps();
  for (size_t i = 0; i + static_cast<size_t>(keep) < all.size(); ++i) {
    if (all[i] == best_step) continue;
    rename_directory(path(all[i]), directory_ / fmt::format("{}{}.old", kHidden, all[i]));
  }
  remove_leftovers();
}

void CheckpointStore::remove(int64_t step) {
  rename_directory(path(step), directory_ / fmt::format("{}{}.old", kHidden, step));
  remove_leftovers();
}

void CheckpointStore::remove_all() {
  std::error_code code;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(directory_, code)) {
    if (step_of(entry.path())) found.push_back(entry.path());
  }
  for (const fs::path& directory : found) fs::remove_all(directory, code);
  remove_leftovers();
}

void CheckpointStore::remove_leftovers() {
  std::error_code code;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(directory_, code)) {
    if (entry.path().filename().string().starts_with(kHidden)) found.push_back(entry.path());
  }
  for (const fs::path& directory : found) fs::remove_all(directory, code);
}

}  // namespace msplora
