#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench.h"
#include "msplora/bench/timings.h"

namespace msplora {

/// Steps of one side of a comparison, over all rounds. Every round is a process of its own, so that no side
/// has the memory of another.
struct StepRuns {
  Timings steps;
  int64_t peak_memory_bytes = 0;
};

/// The options of `bench step` that other programs take under the same names.
std::vector<std::string> step_options_of(const BenchArguments& arguments, const CommonOptions& common);

/// What a program printed; its memory goes to `runs`. Throws Error{kIo} when it fails.
std::string output_of(const std::vector<std::string>& command, StepRuns& runs);

/// Runs `msplora bench step` and adds its steps. Returns what it printed.
nlohmann::ordered_json run_steps(const BenchArguments& arguments, const CommonOptions& common,
                                 StepRuns& runs);

}  // namespace msplora
