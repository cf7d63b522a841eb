#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/log.h"
#include "msplora/kernels/gemm.h"
#include "msplora/runs/run.h"
#include "msplora/runs/run_directory.h"
#include "msplora/train/runtime.h"

/// What every open_run() does, and every training of what it gave.
namespace msplora::detail {

/// What `open` gives, opened under the stop of `options`, with the warnings of that.
template <class Open>
auto opened(const OpenOptions& options, const Open& open) {
  std::vector<std::string> warnings;
  const StopScope stop(options.stop);
  const WarningCollector collector(warnings);
  auto run = open();
  run.resume = options.resume;
  run.stop = options.stop;
  run.warnings = warnings;
  return run;
}

/// While a run trains, on the thread that trains it: its stop, its threads, its precision; and its warnings
/// go to it. The run may have been opened on another thread, and others opened since.
template <class Run>
class TrainingScope {
 public:
  explicit TrainingScope(Run& run) : stop_(run.stop), collector_(run.warnings) {
    use_threads(run.threads);
    kernels::set_matmul_precision(kernels::precision_named(run.recipe.train.matmul_precision));
  }

 private:
  StopScope stop_;
  WarningCollector collector_;
};

/// Threads and precision of the recipe, for what this thread does from now on. Returns the threads.
int use_compute_options(const TrainOptions& train, ErrorList& errors);

/// Claims output.dir; then all that check_run() finds, in one Error.
template <class Recipe>
auto checked_run(const Recipe& recipe, const OpenOptions& options) {
  auto directory = std::make_unique<RunDirectory>(recipe.output, options.resume);
  ErrorList errors;
  auto run = check_run(recipe, errors);
  errors.throw_if_any("the recipe cannot be run");
  run.directory = std::move(directory);
  return run;
}

/// The model of a checked run, with the head of its task.
void open_model_of(Run& run);

}  // namespace msplora::detail
