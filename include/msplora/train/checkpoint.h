#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "msplora/io/safetensors.h"
#include "msplora/train/run_state.h"

namespace msplora {

/// Everything that a resumed run needs.
struct TrainingCheckpoint {
  RunState state;
  std::vector<NamedTensor> trainable;
  std::vector<NamedTensor> optimizer;
  nlohmann::json adapter_state;  // Adapter::state()
  nlohmann::json recipe;         // recipe_to_json; null when the caller has none
  uint64_t data_fingerprint = 0;
  uint64_t base_fingerprint = 0;
};

/// What the name of a checkpoint's directory begins with; the step follows.
inline constexpr char kCheckpointPrefix[] = "checkpoint-";

/// The checkpoints of one run: directories `checkpoint-STEP` with trainable.safetensors,
/// optimizer.safetensors and state.json.
///
/// A checkpoint is written into a hidden directory, synced, and renamed, so that it is there completely or
/// not at all, whenever the process ends. Removing one renames it away first.
class CheckpointStore {
 public:
  explicit CheckpointStore(std::filesystem::path run_directory);

  /// Steps of the complete checkpoints, ascending. Damaged ones (a file missing or shorter than recorded) are
  /// left out.
  std::vector<int64_t> steps() const;
  std::filesystem::path path(int64_t step) const;

  /// Replaces a checkpoint of the same step. Throws Error{kIo}; what was there before stays.
  void save(const TrainingCheckpoint& checkpoint);
  /// Tensors are copies, not views of the files. Throws Error{kFormat} when damaged, Error{kIo} when absent.
  TrainingCheckpoint load(int64_t step) const;
  /// The trainable tensors alone.
  std::vector<NamedTensor> load_trainable(int64_t step) const;

  /// Removes all but the newest `keep` checkpoints and `best_step` (-1: none).
  void prune(int64_t keep, int64_t best_step);
  void remove(int64_t step);
  void remove_all();
  /// Removes what interrupted writes and removals left behind.
  void remove_leftovers();

 private:
  std::filesystem::path directory_;
};

}  // namespace msplora
