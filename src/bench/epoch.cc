#include "msplora/bench/epoch.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "bench/bench_model.h"
#include "msplora/bench/gemm.h"
#include "msplora/train/runtime.h"
#include "msplora/train/training_data.h"

namespace msplora {
namespace {

/// Training data that remember what their batches cost.
class CountingData : public TrainingData {
 public:
  CountingData(const Task& task, const detail::BenchModel& bench, const EpochBenchOptions& options,
               const std::vector<TokenizedExample>& examples, const BatchOptions& batches,
               EpochBenchResult& result)
      : TrainingData(task, *bench.model, all_of(examples), batches),
        bench_(bench),
        options_(options),
        result_(result) {}

  Batch batch(int64_t epoch, int64_t index) override {
    Batch batch = TrainingData::batch(epoch, index);
    std::vector<int64_t> lengths;
    for (size_t i = 1; i < batch.cu_seqlens.size(); ++i)
      lengths.push_back(batch.cu_seqlens[i] - batch.cu_seqlens[i - 1]);
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    result_.padded_tokens += longest * static_cast<int64_t>(lengths.size());
    const StepQuestion question = bench_.question(std::move(lengths), options_.step.checkpoint_activations);
    result_.flops += count_step_flops(bench_.model->architecture(), question).total();
    return batch;
  }

 private:
  const detail::BenchModel& bench_;
  const EpochBenchOptions& options_;
  EpochBenchResult& result_;
};

class RoofSink : public EventSink {
 public:
  RoofSink(GemmRoof& roof, const EpochBenchResult& result,
           const std::function<void(int64_t, int64_t)>& on_step)
      : roof_(roof), result_(result), on_step_(on_step) {}
  void on_step(const StepReport& report) override {
    if (report.step % 10 == 1) roof_.measure();
    if (on_step_) on_step_(report.step, result_.epoch_steps);
  }

 private:
  GemmRoof& roof_;
  const EpochBenchResult& result_;
  const std::function<void(int64_t, int64_t)>& on_step_;
};

}  // namespace

EpochBenchResult bench_epoch(const EpochBenchOptions& options, const std::vector<TokenizedExample>& examples,
                             const std::function<void(int64_t, int64_t)>& on_step) {
  const detail::BenchModel bench = detail::make_bench_model(options.step, options.num_labels);
  EpochBenchResult result;
  const detail::ScratchDirectory scratch;
  TrainerSetup setup = bench.setup(options.step, scratch.path());
  setup.options.epochs = 1;
  setup.options.max_steps = options.max_steps;
  if (options.batch_size > 0) {
    setup.options.batch_size = options.batch_size;
  } else {
    setup.options.token_budget = options.token_budget;
  }
  const auto task = detail::bench_task(*bench.model);
  CountingData data(*task, bench, options, examples, batch_options(setup.options), result);
  result.epoch_steps = data.num_batches(0);
  const Architecture& shape = bench.model->architecture();
  GemmRoof roof({options.token_budget, shape.hidden_size(), shape.intermediate_size()}, options.step.dtype,
                options.step.device);
  setup.sinks.push_back(std::make_unique<RoofSink>(roof, result, on_step));
  const TrainingResult trained = Trainer(std::move(setup), data).run();
  result.steps = trained.steps;
  result.tokens = trained.tokens;
  result.seconds = trained.train_seconds;
  result.last_loss = trained.last_loss;
  result.roof_flops_per_second = roof.flops_per_second();
  result.peak_memory_bytes = peak_memory_bytes();
  return result;
}

}  // namespace msplora
