#pragma once

#include <cstdint>

#include "msplora/bench/step.h"
#include "msplora/bench/timings.h"

namespace msplora {

struct LoadBenchResult {
  int64_t file_bytes = 0;  // the checkpoint, float32
  Timings seconds;         // from the directory to a model with an adapter, ready for the first batch
};

/// Writes a checkpoint of the shape with drawn weights into a scratch directory and loads it `repetitions`
/// times. The file is in the system's cache, as that of a run that is started again is. Throws Error{kIo}
/// when there is no room for it.
LoadBenchResult bench_load(const StepBenchOptions& options, int64_t repetitions);

}  // namespace msplora
