#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "msplora/adapters/config.h"
#include "msplora/bench/timings.h"
#include "msplora/core/profile.h"
#include "msplora/models/memory_estimate.h"
#include "msplora/models/model_config.h"
#include "msplora/models/step_flops.h"

namespace msplora {

/// A training step on drawn tokens, for measuring: classification, or causal language modelling of every
/// token where the model can do that.
struct StepBenchOptions {
  ModelConfig model;
  std::filesystem::path weights;  // directory of a checkpoint; empty: they are drawn
  std::optional<double> dropout;  // of hidden states and attention, instead of the model's
  AdapterConfig adapter;          // method `full`: all parameters are trained, without an adapter
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  int64_t batch = 32;     // sequences
  int64_t longest = 128;  // tokens of the longest sequence
  int64_t shortest = 0;   // of the shortest; lengths lie evenly between; 0: all are `longest`
  int64_t warmup = 2;     // steps before those that count
  int64_t steps = 3;
  int64_t roof_repetitions = 2;  // products after each step; 0: no roof is measured, nor its arrays made
  bool checkpoint_activations = false;
  uint64_t seed = 1;
};

/// What a model is measured with: causal language modelling where it can do that, else classification.
ModelTask bench_task_of(const ModelConfig& config);

struct StepBenchResult {
  int64_t tokens = 0;         // of one step
  int64_t padded_tokens = 0;  // of the same sequences padded to the longest
  int64_t trainable_parameters = 0;
  StepFlops flops;
  Timings steps;
  double roof_flops_per_second = 0.0;  // 0: not measured
  double median_roof_flops_per_second = 0.0;
  std::string roof_variant;
  double peak_flops_per_second = 0.0;        // InstructionPeak; 0: not measured
  double first_loss = 0.0, last_loss = 0.0;  // of the steps that count
  int64_t peak_memory_bytes = 0;
  int64_t loaded_memory_bytes = 0;  // taken by the model with its adapter (train/runtime.h)
  int64_t taken_memory_bytes = 0;   // and at most, while it was trained
  MemoryEstimate estimate;
  std::vector<ProfileEntry> profile;  // of all counted steps together

  double tokens_per_second() const { return static_cast<double>(tokens) / steps.best(); }
  /// Share of the fastest product's rate that the needed products of the fastest step come to; only with a
  /// roof.
  double roof_share() const { return flops.total() / steps.best() / roof_flops_per_second; }
  /// The same of the median step and the median product, which what else runs on the machine disturbs alike.
  double median_roof_share() const { return flops.total() / steps.median() / median_roof_flops_per_second; }
  /// The same as roof_share of what the instruction alone can do.
  double peak_share() const { return flops.total() / steps.best() / peak_flops_per_second; }
};

/// Lengths of the sequences of one batch: evenly between shortest and longest.
std::vector<int64_t> batch_lengths(const StepBenchOptions& options);

/// Trains with the Trainer itself, and measures the roof between its steps. `on_step` sees the number of each
/// step and its seconds; may be empty. Throws Error{kConfig} for options that do not fit the model.
StepBenchResult bench_step(const StepBenchOptions& options,
                           const std::function<void(int64_t, double)>& on_step = {});

}  // namespace msplora
