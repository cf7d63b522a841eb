#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "bench.h"
#include "msplora/bench/kernels.h"
#include "msplora/runs/model_files.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

struct KernelArguments {
  std::string shape = "roberta-base";
  std::string dtype = "float32";
  int64_t batch = 32;
  int64_t seq = 128;
  double dropout = 0.1;
  int64_t repetitions = 10;
};

Json kernel_json(const KernelResult& kernel) {
  Json json = {{"name", kernel.name},
               {"operations", kernel.operations},
               {"products", kernel.products},
               {"bytes", kernel.bytes},
               {"floor_seconds", kernel.floor_seconds}};
  json.update(timings_json(kernel.timings));
  return json;
}

void run_kernels(const KernelArguments& arguments, const CommonOptions& common) {
  KernelBenchOptions options;
  options.model = known_model_shape(arguments.shape);
  options.dtype = parse_dtype(arguments.dtype);
  options.batch = arguments.batch;
  options.length = arguments.seq;
  options.dropout = arguments.dropout;
  options.repetitions = arguments.repetitions;
  use_threads(common.threads);
  const KernelReport report = bench_kernels(options);
  if (common.json) {
    Json json = {{"machine", machine_json()},
                 {"shape", arguments.shape},
                 {"dtype", arguments.dtype},
                 {"tokens", arguments.batch * arguments.seq},
                 {"peak_gflops", 1e-9 * report.roofs.flops_per_second},
                 {"product_peak_gflops", 1e-9 * report.roofs.product_flops_per_second},
                 {"copy_gbytes_per_second", 1e-9 * report.roofs.bytes_per_second},
                 {"kernels", Json::array()}};
    for (const KernelResult& kernel : report.kernels) json["kernels"].push_back(kernel_json(kernel));
    return print_json(json);
  }
  std::cout << machine_line() << "\n"
            << fmt::format(
                   "{} of {} x {} tokens, {}; peaks: {:.0f} GFLOP/s, products {:.0f} GFLOP/s, copies {:.1f} "
                   "GB/s\n",
                   arguments.shape, arguments.batch, arguments.seq, arguments.dtype,
                   1e-9 * report.roofs.flops_per_second, 1e-9 * report.roofs.product_flops_per_second,
                   1e-9 * report.roofs.bytes_per_second);
  TextTable table({"kernel", "Mop", "MB", "floor ms", "best ms", "median ms", "of the floor"},
                  {false, true, true, true, true, true, true});
  for (const KernelResult& kernel : report.kernels) {
    table.add({kernel.name, fmt::format("{:.1f}", 1e-6 * (kernel.operations + kernel.products)),
               fmt::format("{:.1f}", 1e-6 * kernel.bytes), fmt::format("{:.3f}", 1e3 * kernel.floor_seconds),
               fmt::format("{:.3f}", 1e3 * kernel.timings.best()),
               fmt::format("{:.3f}", 1e3 * kernel.timings.median()),
               fmt::format("{:.0f}%", 100 * kernel.floor_seconds / kernel.timings.best())});
  }
  std::cout << table.text("  ");
}

}  // namespace

Command add_bench_kernels(CLI::App& bench, CommonOptions& common) {
  CLI::App* command = bench.add_subcommand("kernels", "Each kernel beside the least time it could take");
  auto arguments = std::make_shared<KernelArguments>();
  command->add_option("--shape", arguments->shape, "Well-known model (see inspect), for the sizes")
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--dtype", arguments->dtype, "Type of the arrays")
      ->transform(dtype_choice({"float32", "bfloat16"}))
      ->capture_default_str();
  command->add_option("--batch", arguments->batch, "Sequences")
      ->check(positive_number())
      ->type_name("B")
      ->capture_default_str();
  command->add_option("--seq", arguments->seq, "Tokens of each sequence")
      ->check(positive_number())
      ->type_name("S")
      ->capture_default_str();
  command->add_option("--dropout", arguments->dropout, "Dropout in norms and attention")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  command->add_option("--repeat", arguments->repetitions, "Runs of each kernel, in turn")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
  add_common(*command, common);
  return {command, [arguments, &common] { run_kernels(*arguments, common); }};
}

}  // namespace msplora
