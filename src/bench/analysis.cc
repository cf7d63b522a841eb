#include "msplora/bench/analysis.h"

#include <c10/core/GradMode.h>
#include <algorithm>
#include <memory>
#include <utility>

#include "bench/bench_model.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/planning.h"
#include "msplora/analysis/analyze.h"
#include "msplora/core/error.h"
#include "msplora/core/paths.h"
#include "msplora/core/random.h"
#include "msplora/models/model.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

AdapterTarget shapes_of(const ModelConfig& config) {
  const Architecture architecture = describe(config);
  AdapterTarget target;
  target.model_type = config.model_type;
  target.num_layers = architecture.num_layers();
  target.heads = {architecture.heads(), architecture.kv_heads()};
  target.sites = sites_of_shape(architecture);
  return target;
}

/// Uniform numbers: the analysis does not care, and they are drawn quickly.
void draw_factors(const Adapter& adapter) {
  const c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter.trainable()) {
    RandomStream random(1, entry.name);
    at::Tensor tensor = entry.tensor;
    float* values = tensor.data_ptr<float>();
    for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(random.uniform() - 0.5);
  }
}

}  // namespace

AnalysisBenchResult bench_analysis(const StepBenchOptions& options, const std::filesystem::path& directory,
                                   int64_t repetitions) {
  if (repetitions < 1) throw Error(ErrorCode::kUsage, "repetitions", "must be at least 1");
  if (trains_whole_base(options.adapter))
    throw Error(ErrorCode::kUsage, "method", "its adapter is the base itself",
                "one with an update of its own");
  const AdapterTarget shapes = shapes_of(options.model);
  {
    const auto made = empty_adapter(with_default_targets(options.adapter, shapes.model_type), shapes);
    draw_factors(*made);
    save_native_adapter(*made, directory);
  }
  AnalysisBenchResult result;
  for (const std::filesystem::path& file : entries_of(directory))
    result.file_bytes += static_cast<int64_t>(size_of_file(file));
  for (int64_t i = 0; i < repetitions; ++i) {
    result.seconds.seconds.push_back(time_of([&] {
      const auto adapter = load_adapter_without_base(directory, shapes);
      const analysis::AdapterAnalysis found = analysis::analyze(*adapter, "bench", nullptr, {});
      result.sites = static_cast<int64_t>(found.sites.size());
      for (const analysis::SiteAnalysis& site : found.sites) result.rank = std::max(result.rank, site.rank);
    }));
  }
  result.peak_memory_bytes = peak_memory_bytes();
  return result;
}

AnalysisBenchResult bench_analysis(const StepBenchOptions& options, int64_t repetitions) {
  const detail::ScratchDirectory scratch;
  return bench_analysis(options, scratch.path() / "adapter", repetitions);
}

}  // namespace msplora
