#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/bench/step.h"
#include "msplora/models/model.h"
#include "msplora/tasks/task.h"
#include "msplora/train/trainer.h"

namespace msplora::detail {

/// A model and what is trained of it. The adapter goes before its model.
struct BenchModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;  // null: method `full`
  std::vector<TrainableTensor> trainable;

  int64_t trainable_parameters() const;
  MemoryQuestion memory_question(const StepBenchOptions& options, int64_t tokens) const;
  /// The question about the products of one batch of sequences of these lengths.
  StepQuestion question(std::vector<int64_t> lengths, bool checkpoint_activations) const;
  /// Options, tensors and adapter of a run in `directory`; no sinks yet.
  TrainerSetup setup(const StepBenchOptions& options, const std::filesystem::path& directory) const;
};
/// The task that the model's head is for; classes have numbers for names.
std::unique_ptr<Task> bench_task(const Model& model);

BenchModel make_bench_model(const StepBenchOptions& options, int64_t num_labels,
                            ModelTask task = ModelTask::kSequenceClassification);

/// A directory for the run's checkpoint, gone with the object.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace msplora::detail
