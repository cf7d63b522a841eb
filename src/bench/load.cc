#include "msplora/bench/load.h"

#include <memory>
#include <utility>

#include "bench/bench_model.h"
#include "msplora/core/error.h"
#include "msplora/models/model.h"
#include "msplora/tasks/target.h"

namespace msplora {

LoadBenchResult bench_load(const StepBenchOptions& options, int64_t repetitions) {
  if (repetitions < 1) throw Error(ErrorCode::kUsage, "repetitions", "must be at least 1");
  const detail::ScratchDirectory scratch;
  const auto directory = scratch.path() / "model";
  ModelLoadOptions load;
  load.seed = options.seed;
  save_model(*create_model(options.model, load), directory, at::kFloat);
  LoadBenchResult result;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors")
      result.file_bytes += static_cast<int64_t>(entry.file_size());
  }
  load.compute_dtype = options.dtype;
  load.device = options.device;
  for (int64_t i = 0; i < repetitions; ++i) {
    detail::BenchModel bench;
    result.seconds.seconds.push_back(time_of([&] {
      bench.model = load_model(directory, load);
      bench.adapter = create_adapter(options.adapter, target_of(*bench.model), options.seed);
    }));
  }
  return result;
}

}  // namespace msplora
