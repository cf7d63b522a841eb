#pragma once

#include <cstdint>
#include <filesystem>

#include "msplora/bench/step.h"
#include "msplora/bench/timings.h"

namespace msplora {

struct AnalysisBenchResult {
  int64_t sites = 0;
  int64_t rank = 0;               // of an update, the largest
  int64_t file_bytes = 0;         // of the adapter
  Timings seconds;                // from the files to the report, without a base
  int64_t peak_memory_bytes = 0;  // of the process
};

/// Writes an adapter of the options' method on their shape with drawn factors (no weights are made, so that
/// large shapes need no room) into `directory`, reads it and analyses it, `repetitions` times. Throws
/// Error{kUsage} for methods whose adapters need the base to be read.
AnalysisBenchResult bench_analysis(const StepBenchOptions& options, const std::filesystem::path& directory,
                                   int64_t repetitions);

/// The same in a directory that goes with it.
AnalysisBenchResult bench_analysis(const StepBenchOptions& options, int64_t repetitions);

}  // namespace msplora
