#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "msplora/bench/step.h"
#include "msplora/bench/timings.h"

namespace msplora {

/// A float32 checkpoint of a shape with drawn weights, in a scratch directory that goes with it. Throws
/// Error{kIo} when there is no room for it.
class BenchCheckpoint {
 public:
  explicit BenchCheckpoint(const StepBenchOptions& options);
  ~BenchCheckpoint();
  std::filesystem::path directory() const;
  int64_t file_bytes() const;

 private:
  struct Scratch;
  std::unique_ptr<Scratch> scratch_;
};

struct LoadBenchResult {
  int64_t file_bytes = 0;  // the checkpoint, float32
  Timings seconds;         // from the directory to a model with an adapter, ready for the first batch
};

/// Writes a checkpoint of the shape and loads it `repetitions` times. The file is in the system's cache, as
/// that of a run that is started again is.
LoadBenchResult bench_load(const StepBenchOptions& options, int64_t repetitions);

}  // namespace msplora
