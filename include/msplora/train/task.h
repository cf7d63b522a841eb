#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/data/batch.h"
#include "msplora/nn/context.h"
#include "msplora/tasks/evaluation.h"

namespace msplora {

/// What a Trainer learns from: batches, a loss and an evaluation. The same engine runs every task.
///
/// Batches must be a function of (epoch, index) alone, so that a resumed run sees the same ones.
class TrainingTask {
 public:
  virtual ~TrainingTask() = default;

  /// Micro-batches of an epoch (from 0). At least 1.
  virtual int64_t num_batches(int64_t epoch) = 0;
  virtual Batch batch(int64_t epoch, int64_t index) = 0;

  /// What the loss of this batch is a sum over: sequences, or tokens with a label.
  virtual int64_t num_targets(const Batch& batch) const = 0;
  /// The sum (not the mean) of the losses, a float32 scalar with a graph.
  virtual at::Tensor loss_sum(const Batch& batch, const ForwardContext& context) = 0;

  /// Whether there is anything to evaluate on.
  virtual bool can_evaluate() const = 0;
  /// Names of the metrics that evaluate() gives, in its order.
  virtual std::vector<std::string> metric_names() const = 0;
  /// Evaluates the weights as they are.
  virtual Evaluation evaluate() = 0;

  /// Changes when the data does; a resumed run must find it unchanged.
  virtual uint64_t fingerprint() const = 0;
  /// Where the examples of a batch come from, for messages: "train.tsv: lines 3, 17, 20".
  virtual std::string describe(const Batch& batch) const = 0;
};

/// What describe() says of examples whose places `where` gives (by number where it is empty).
std::string describe_examples(const Batch& batch, const std::function<std::string(uint32_t)>& where);

}  // namespace msplora
