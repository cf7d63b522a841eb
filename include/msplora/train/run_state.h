#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

#include "msplora/tasks/evaluation.h"

namespace msplora {

/// Where a run stands, beside its tensors. Together they determine everything that follows: batches are a
/// function of (seed, epoch, batch), dropout of (seed, step, micro-batch), the learning rate of the step.
struct RunState {
  int64_t step = 0;   // optimizer steps done
  int64_t epoch = 0;  // current pass over the data
  int64_t batch = 0;  // next micro-batch of that pass
  int64_t tokens = 0;
  int64_t examples = 0;
  double train_seconds = 0.0;  // spent in optimizer steps
  double total_seconds = 0.0;  // evaluation and saving included
  double cpu_seconds = 0.0;    // of the processor in that time

  /// Since the last log line.
  struct Window {
    double loss = 0.0;  // sum of the steps' mean losses
    int64_t steps = 0;
    int64_t tokens = 0;
    double seconds = 0.0;
  } window;

  std::optional<double> first_loss;  // unset before the first step, and in states of earlier builds
  double last_loss = 0.0;
  int64_t last_evaluation_step = -1;
  std::optional<Evaluation> last_evaluation;
  std::optional<Evaluation> best_evaluation;
  int64_t best_step = -1;
  int64_t evaluations_without_gain = 0;
  bool stopped_early = false;
  nlohmann::json search;  // the outcome of the method's search, once it was made; else null
};

nlohmann::json run_state_to_json(const RunState& state);
/// Throws Error{kFormat} naming `where` when a field is missing or of another type.
RunState run_state_from_json(const nlohmann::json& json, const std::string& where);

}  // namespace msplora
