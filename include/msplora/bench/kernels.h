#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/bench/timings.h"
#include "msplora/models/model_config.h"

namespace msplora {

/// The kernels at the sizes that one block of a model gives them.
struct KernelBenchOptions {
  ModelConfig model;
  at::ScalarType dtype = at::kFloat;  // float32 or bfloat16
  int64_t batch = 32;                 // sequences
  int64_t length = 128;               // tokens of each
  double dropout = 0.1;
  int64_t repetitions = 10;
};

/// What a kernel has to do at least, and what it took.
struct KernelResult {
  std::string name;
  double operations = 0.0;  // of floats (and, for dropout, integers): polynomials and masks included
  double products = 0.0;    // operations of products of numbers of the dtype
  double bytes = 0.0;       // read and written, each array once
  /// The larger of what all operations take at the peaks and what bytes take at the bandwidth.
  double floor_seconds = 0.0;
  Timings timings;
};

/// The rates that floors are computed from, measured in the same run.
struct KernelRoofs {
  double flops_per_second = 0.0;          // InstructionPeak of float32
  double product_flops_per_second = 0.0;  // and of the dtype
  double bytes_per_second = 0.0;          // of copying an array larger than the caches
};

struct KernelReport {
  KernelRoofs roofs;
  std::vector<KernelResult> kernels;
};

/// Runs every kernel `repetitions` times, in turn, after one run that does not count. Throws Error{kConfig}
/// for a dtype that kernels do not have.
KernelReport bench_kernels(const KernelBenchOptions& options);

}  // namespace msplora
