#include "msplora/train/checkpoint.h"

#include <fmt/format.h>

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
#include "msplora/core/paths.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

constexpr char kHidden[] = ".checkpoint-";
constexpr char kTrainable[] = "trainable.safetensors";
constexpr char kOptimizer[] = "optimizer.safetensors";
constexpr char kState[] = "state.json";
constexpr int kFormatVersion = 1;

std::optional<int64_t> step_of(const fs::path& directory) {
  const std::string name = directory.filename().string();
  const size_t prefix = std::strlen(kCheckpointPrefix);
  if (!name.starts_with(kCheckpointPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + prefix, end, step);
  if (error != std::errc() || stop != end) return std::nullopt;
  return step;
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
      if (size_of_file(directory / name) != size.get<uintmax_t>()) return false;
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
  return directory_ / (kCheckpointPrefix + std::to_string(step));
}

std::vector<int64_t> CheckpointStore::steps() const {
  std::vector<int64_t> steps;
  for (const fs::path& entry : entries_of(directory_)) {
    const auto step = step_of(entry);
    if (step && is_complete(entry)) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

void CheckpointStore::save(const TrainingCheckpoint& checkpoint) {
  const fs::path target = path(checkpoint.state.step);
  const fs::path hidden = directory_ / fmt::format("{}{}.new", kHidden, checkpoint.state.step);
  remove_path(hidden);
  try {
    make_directories(hidden);
    write_safetensors(hidden / kTrainable, checkpoint.trainable);
    write_safetensors(hidden / kOptimizer, checkpoint.optimizer);
    nlohmann::json json = {
        {"format", kFormatVersion},
        {"run", run_state_to_json(checkpoint.state)},
        {"adapter_state", checkpoint.adapter_state},
        {"recipe", checkpoint.recipe},
        {"data_fingerprint", checkpoint.data_fingerprint},
        {"base_fingerprint", checkpoint.base_fingerprint},
        {"files",
         {{kTrainable, size_of_file(hidden / kTrainable)}, {kOptimizer, size_of_file(hidden / kOptimizer)}}}};
    write_file_atomically(hidden / kState, json.dump(2) + "\n");
    sync_path(hidden);
    if (path_exists(target))
      rename_path(target, directory_ / fmt::format("{}{}.old", kHidden, checkpoint.state.step));
    rename_path(hidden, target);
    sync_path(directory_);
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
    rename_path(path(all[i]), directory_ / fmt::format("{}{}.old", kHidden, all[i]));
  }
  remove_leftovers();
}

void CheckpointStore::remove(int64_t step) {
  rename_path(path(step), directory_ / fmt::format("{}{}.old", kHidden, step));
  remove_leftovers();
}

void CheckpointStore::remove_all() {
  for (const fs::path& entry : entries_of(directory_))
    if (step_of(entry)) remove_path(entry);
  remove_leftovers();
}

void CheckpointStore::remove_leftovers() {
  std::error_code ignored;
  for (const fs::path& entry : entries_of(directory_))
    if (entry.filename().string().starts_with(kHidden)) fs::remove_all(entry, ignored);
}

}  // namespace msplora
