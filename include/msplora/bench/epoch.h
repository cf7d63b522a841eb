#pragma once

#include <functional>
#include <vector>

#include "msplora/bench/step.h"
#include "msplora/data/batch.h"

namespace msplora {

/// A pass over real text.
struct EpochBenchOptions {
  StepBenchOptions step;  // model, adapter, dtype, seed, checkpoint_activations; the rest is not used
  int64_t num_labels = 2;
  int64_t token_budget = 4096;  // tokens of a batch, unless batch_size is set
  int64_t batch_size = 0;       // sequences of a batch
  int64_t max_steps = 0;        // stop early; 0: the whole pass
};

struct EpochBenchResult {
  int64_t steps = 0;
  int64_t epoch_steps = 0;  // of the whole pass
  int64_t tokens = 0;
  int64_t padded_tokens = 0;  // of the same batches, each padded to its longest sequence
  double seconds = 0.0;       // of the steps alone
  double flops = 0.0;
  double roof_flops_per_second = 0.0;
  double last_loss = 0.0;
  int64_t peak_memory_bytes = 0;

  double tokens_per_second() const { return static_cast<double>(tokens) / seconds; }
  double roof_share() const { return flops / seconds / roof_flops_per_second; }
};

/// Trains one pass over `examples` (with labels below num_labels) in batches; the roof is
/// measured after every tenth step. Throws Error{kData} when there are no examples.
EpochBenchResult bench_epoch(const EpochBenchOptions& options, const std::vector<TokenizedExample>& examples,
                             const std::function<void(int64_t, int64_t)>& on_step = {});

}  // namespace msplora
