#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "bench.h"
#include "msplora/bench/analysis.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

struct AnalyzeBenchArguments {
  BenchArguments step;
  std::string directory;
  int64_t repetitions = 1;
};

void run_bench_analyze(const AnalyzeBenchArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  const StepBenchOptions options = step_options(arguments.step);
  const AnalysisBenchResult result =
      arguments.directory.empty() ? bench_analysis(options, arguments.repetitions)
                                  : bench_analysis(options, arguments.directory, arguments.repetitions);
  if (common.json) {
    nlohmann::ordered_json report = {{"shape", arguments.step.shape},
                                     {"method", arguments.step.method},
                                     {"machine", machine_json()},
                                     {"sites", result.sites},
                                     {"rank", result.rank},
                                     {"file_bytes", result.file_bytes},
                                     {"peak_memory_bytes", result.peak_memory_bytes}};
    report.update(timings_json(result.seconds));
    return print_json(report);
  }
  std::cout << machine_line() << "\n"
            << fmt::format(
                   "  {}, {}: {} layers of rank {} ({} of files) analysed in {:.2f} s, peak memory {}\n",
                   arguments.step.shape, arguments.step.method, result.sites, result.rank,
                   bytes_text(result.file_bytes), result.seconds.best(),
                   bytes_text(result.peak_memory_bytes));
}

}  // namespace

Command add_bench_analyze(CLI::App& bench, CommonOptions& common) {
  CLI::App* command =
      bench.add_subcommand("analyze", "From the files of an adapter with drawn factors to its analysis");
  auto arguments = std::make_shared<AnalyzeBenchArguments>();
  command->add_option("--keep", arguments->directory, "Where the adapter is written, to stay there")
      ->type_name("DIR");
  command->add_option("--repeat", arguments->repetitions, "Times that it is analysed")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
  add_model_bench_arguments(*command, arguments->step);
  add_common(*command, common);
  return {command, [arguments, &common] { run_bench_analyze(*arguments, common); }};
}

}  // namespace msplora
