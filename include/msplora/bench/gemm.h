#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "msplora/bench/timings.h"

namespace msplora {

/// y[rows, out] = x[rows, in] Wᵀ, W [out, in].
struct GemmSize {
  int64_t rows = 0, in = 0, out = 0;
  double flops() const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  }
};

/// Copies of W that a product is timed with, one after the other. With few rows it reads W from memory, as a
/// model that writes does: then the copies take 256 MiB together. Else 1.
int64_t gemm_copies(const GemmSize& size, at::ScalarType dtype);

/// One way to compute a product, with its operands.
class GemmVariant {
 public:
  virtual ~GemmVariant() = default;
  virtual std::string name() const = 0;
  virtual void run() = 0;                 // with every copy of W
  virtual at::Tensor result() const = 0;  // of the last run, [rows, out]
};

/// Every way this build has on the device, on the same drawn operands and into one result: at::linear, our
/// own kernel with a packed weight, and with oneDNN (MSPLORA_WITH_ONEDNN) a product whose weight was brought
/// into oneDNN's own layout before.
std::vector<std::unique_ptr<GemmVariant>> gemm_variants(const GemmSize& size, at::ScalarType dtype,
                                                        const at::Device& device = at::kCPU);

/// The rate that all threads together reach with operands in registers, by the best instruction for a type
/// that this machine has (matrix units, where there are some): what a share of means the same everywhere.
class InstructionPeak {
 public:
  explicit InstructionPeak(at::ScalarType dtype) : dtype_(dtype) {}
  void measure();  // ten milliseconds
  double flops_per_second() const { return best_; }

 private:
  at::ScalarType dtype_;
  double best_ = 0.0;
};

struct GemmResult {
  GemmSize size;
  at::ScalarType dtype = at::kFloat;
  std::string variant;
  Timings timings;                     // of one product
  double peak_flops_per_second = 0.0;  // InstructionPeak, measured in turn with the products
  double best_flops_per_second() const { return size.flops() / timings.best(); }
  double median_flops_per_second() const { return size.flops() / timings.median(); }
  double peak_share() const { return best_flops_per_second() / peak_flops_per_second; }
  /// Of W alone.
  double best_bytes_per_second() const;
};

/// Runs every variant of every size and dtype `repetitions` times, in turn: what slows the machine down for a
/// while then slows all of them. One run of each is not counted.
std::vector<GemmResult> bench_gemm(const std::vector<GemmSize>& sizes,
                                   const std::vector<at::ScalarType>& dtypes, int64_t repetitions);

/// The rate of the fastest way to multiply, FLOP/s: what a training step is compared with.
class GemmRoof {
 public:
  GemmRoof(const GemmSize& size, at::ScalarType dtype, const at::Device& device = at::kCPU);
  void measure();  // one run of each variant, and of the instruction
  /// Of the fastest product so far.
  double flops_per_second() const;
  /// Of half of the products of the variant that is fastest by that measure.
  double median_flops_per_second() const;
  const std::string& variant() const;  // that gave the fastest product
  /// Of the instruction alone; 0 on another device.
  double peak_flops_per_second() const { return peak_.flops_per_second(); }

 private:
  bool is_cpu_;
  InstructionPeak peak_;
  std::vector<GemmResult> results_;
  std::vector<std::unique_ptr<GemmVariant>> variants_;
};

/// Bytes a second of copying `bytes`, read and written bytes counted both: the best of `repetitions`.
double copy_bandwidth(int64_t bytes, int64_t repetitions);
/// The same of reading alone, by all threads, each from its own part.
double read_bandwidth(int64_t bytes, int64_t repetitions);

}  // namespace msplora
