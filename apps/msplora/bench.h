#pragma once

#include <string>
#include <vector>

#include "msplora/bench/step.h"
#include "program.h"

namespace msplora {

Command add_bench_analyze(CLI::App& bench, CommonOptions& common);
Command add_bench_gemm(CLI::App& bench, CommonOptions& common);
Command add_bench_kernels(CLI::App& bench, CommonOptions& common);
Command add_bench_step(CLI::App& bench, CommonOptions& common);
Command add_bench_epoch(CLI::App& bench, CommonOptions& common);
Command add_bench_methods(CLI::App& bench, CommonOptions& common);
Command add_bench_memory(CLI::App& bench, CommonOptions& common);
Command add_bench_generate(CLI::App& bench, CommonOptions& common);
Command add_bench_load(CLI::App& bench, CommonOptions& common);
Command add_bench_peers(CLI::App& bench, CommonOptions& common);

/// The options that say what is measured, shared by the subcommands of `bench`.
struct BenchArguments {
  std::string shape = "roberta-base";
  std::string weights;
  std::string method = "msplora";
  int64_t rank = 8;
  int64_t levels = 3;
  std::string target_modules;
  std::string dtype = "float32";
  std::string matmul_precision = "exact";
  int64_t batch = 32;
  int64_t seq = 128;
  int64_t min_seq = 0;
  double dropout = 0.1;
  double adapter_dropout = 0.0;
  int64_t steps = 3;
  int64_t seed = 1;
  bool checkpoint_activations = false;
  bool no_roof = false;
};

/// Model, method and types; with add_bench_arguments also the batch and the number of steps.
void add_model_bench_arguments(CLI::App& command, BenchArguments& arguments);
void add_bench_arguments(CLI::App& command, BenchArguments& arguments);

/// The step that the options describe. Throws Error{kUsage} for an unknown shape or method.
StepBenchOptions step_options(const BenchArguments& arguments);

/// --matmul-precision.
void add_precision(CLI::App& command, std::string& precision);

nlohmann::ordered_json machine_json();
/// "AMD EPYC (family 26, model 2), 2 threads, avx512, load 3.1".
std::string machine_line();
/// {"best_seconds", "median_seconds", "seconds": [...]}.
nlohmann::ordered_json timings_json(const Timings& timings);
/// What `bench step --json` prints.
nlohmann::ordered_json step_json(const BenchArguments& arguments, const StepBenchResult& result);

}  // namespace msplora
