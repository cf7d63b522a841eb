#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench.h"
#include "msplora/bench/load.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

struct LoadArguments {
  BenchArguments step;
  int64_t repetitions = 5;
};

void run_load(const LoadArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  StepBenchOptions options = step_options(arguments.step);
  options.device = device_of(common);
  const LoadBenchResult result = bench_load(options, arguments.repetitions);
  const double megabytes = 1e-6 * static_cast<double>(result.file_bytes);
  if (common.json) {
    nlohmann::ordered_json report = {{"shape", arguments.step.shape},
                                     {"method", arguments.step.method},
                                     {"dtype", arguments.step.dtype},
                                     {"machine", machine_json()},
                                     {"file_bytes", result.file_bytes}};
    report.update(timings_json(result.seconds));
    return print_json(report);
  }
  std::cout << machine_line() << "\n"
            << fmt::format(
                   "  {}: {:.0f} MB ready to train in {:.3f} s (median {:.3f} s of {}), {:.0f} MB/s\n",
                   arguments.step.shape, megabytes, result.seconds.best(), result.seconds.median(),
                   result.seconds.seconds.size(), megabytes / result.seconds.best());
}

}  // namespace

Command add_bench_load(CLI::App& bench, CommonOptions& common) {
  CLI::App* command = bench.add_subcommand("load", "From a float32 checkpoint to a model ready to train");
  auto arguments = std::make_shared<LoadArguments>();
  command->add_option("--repeat", arguments->repetitions, "Times that it is loaded")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
  add_model_bench_arguments(*command, arguments->step);
  add_common(*command, common);
  return {command, [arguments, &common] { run_load(*arguments, common); }};
}

}  // namespace msplora
