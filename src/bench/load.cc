#include "msplora/bench/load.h"

#include <memory>
#include <utility>

#include "bench/bench_model.h"
#include "msplora/core/error.h"
#include "msplora/core/paths.h"
#include "msplora/models/model.h"

namespace msplora {

struct BenchCheckpoint::Scratch {
  detail::ScratchDirectory directory;
};

BenchCheckpoint::BenchCheckpoint(const StepBenchOptions& options) : scratch_(std::make_unique<Scratch>()) {
  ModelLoadOptions load;
  load.seed = options.seed;
  load.task = bench_task_of(options.model);
  load.num_labels = 2;
  save_model(*create_model(options.model, load), directory(), at::kFloat);
}

BenchCheckpoint::~BenchCheckpoint() = default;

std::filesystem::path BenchCheckpoint::directory() const {
  return scratch_->directory.path() / "model";
}

int64_t BenchCheckpoint::file_bytes() const {
  int64_t bytes = 0;
  for (const std::filesystem::path& file : entries_of(directory()))
    if (file.extension() == ".safetensors") bytes += static_cast<int64_t>(size_of_file(file));
  return bytes;
}

LoadBenchResult bench_load(const StepBenchOptions& options, int64_t repetitions) {
  if (repetitions < 1) throw Error(ErrorCode::kUsage, "repetitions", "must be at least 1");
  const BenchCheckpoint checkpoint(options);
  LoadBenchResult result;
  result.file_bytes = checkpoint.file_bytes();
  StepBenchOptions from_file = options;
  from_file.weights = checkpoint.directory();
  for (int64_t i = 0; i < repetitions; ++i) {
    result.seconds.seconds.push_back(
        time_of([&] { detail::make_bench_model(from_file, 2, bench_task_of(options.model)); }));
  }
  return result;
}

}  // namespace msplora
