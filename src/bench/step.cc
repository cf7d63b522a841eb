#include "msplora/bench/step.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bench/bench_model.h"
#include "msplora/bench/gemm.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

std::vector<TokenizedExample> drawn_examples(const StepBenchOptions& options) {
  const auto vocab = static_cast<uint64_t>(describe(options.model).vocab_size());
  RandomStream random(options.seed, "bench tokens");
  std::vector<TokenizedExample> examples;
  for (const int64_t length : batch_lengths(options)) {
    TokenizedExample example;
    for (int64_t i = 0; i < length; ++i) {
      example.ids.push_back(static_cast<int32_t>(random.below(vocab)));
    }
    example.label = static_cast<int64_t>(examples.size() % 2);
    examples.push_back(std::move(example));
  }
  return examples;
}

/// Takes the time of each step from the trainer's report (log_every is 1: a window is one step).
class StepSink : public EventSink {
 public:
  StepSink(const StepBenchOptions& options, StepBenchResult& result, GemmRoof* roof,
           const std::function<void(int64_t, double)>& on_step)
      : options_(options), result_(result), roof_(roof), on_step_(on_step) {}

  void on_step(const StepReport& report) override {
    const double seconds = static_cast<double>(result_.tokens) / report.tokens_per_second;
    const int64_t counted = report.step - options_.warmup;
    if (counted == 1) result_.first_loss = report.loss;
    if (counted >= 1) result_.steps.seconds.push_back(seconds);
    result_.last_loss = report.loss;
    if (on_step_) on_step_(report.step, seconds);
    for (int64_t i = 0; i < options_.roof_repetitions; ++i) roof_->measure();
    if (counted == 0) start_profile();
  }

 private:
  const StepBenchOptions& options_;
  StepBenchResult& result_;
  GemmRoof* roof_;  // null without repetitions
  const std::function<void(int64_t, double)>& on_step_;
};

void check(const StepBenchOptions& options) {
  ErrorList errors;
  const auto at_least_one = [&](const char* name, int64_t value) {
    if (value < 1) errors.add(name, fmt::format("expected at least 1, found {}", value));
  };
  at_least_one("batch", options.batch);
  at_least_one("seq", options.longest);
  at_least_one("steps", options.steps);
  at_least_one("warmup", options.warmup);  // the first step allocates
  if (options.roof_repetitions < 0)
    errors.add("roof repetitions", fmt::format("expected at least 0, found {}", options.roof_repetitions));
  if (options.shortest < 0 || options.shortest > options.longest) {
    errors.add("min-seq", fmt::format("expected 0 to {}, found {}", options.longest, options.shortest));
  }
  errors.throw_if_any(ErrorCode::kUsage, "bench step");
}

}  // namespace

std::vector<int64_t> batch_lengths(const StepBenchOptions& options) {
  const int64_t shortest = options.shortest > 0 ? options.shortest : options.longest;
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < options.batch; ++i) {
    const int64_t steps = std::max<int64_t>(1, options.batch - 1);
    lengths.push_back(options.longest - (options.longest - shortest) * i / steps);
  }
  return lengths;
}

StepBenchResult bench_step(const StepBenchOptions& options,
                           const std::function<void(int64_t, double)>& on_step) {
  check(options);
  const detail::BenchModel bench = detail::make_bench_model(options, 2, bench_task_of(options.model));
  StepBenchResult result;
  result.loaded_memory_bytes = taken_memory_bytes();
  for (const int64_t length : batch_lengths(options)) result.tokens += length;
  result.padded_tokens = options.batch * options.longest;
  result.trainable_parameters = bench.trainable_parameters();
  const Architecture& shape = bench.model->architecture();
  result.flops =
      count_step_flops(shape, bench.question(batch_lengths(options), options.checkpoint_activations));
  std::optional<GemmRoof> roof;
  if (options.roof_repetitions > 0)
    roof.emplace(GemmSize{result.tokens, shape.hidden_size(), shape.intermediate_size()}, options.dtype,
                 options.device);

  const detail::ScratchDirectory scratch;
  TrainerSetup setup = bench.setup(options, scratch.path());
  setup.options.max_steps = setup.options.epochs = options.warmup + options.steps;
  setup.options.save_every = setup.options.max_steps + 1;
  setup.sinks.push_back(std::make_unique<StepSink>(options, result, roof ? &*roof : nullptr, on_step));
  const std::vector<TokenizedExample> examples = drawn_examples(options);
  BatchOptions batches;
  batches.batch_size = options.batch;
  batches.shuffle = batches.bucket = false;
  const auto task = detail::bench_task(*bench.model);
  TrainingData data(*task, *bench.model, all_of(examples), batches);
  Trainer(std::move(setup), data).run();
  result.profile = stop_profile();
  if (roof) {
    result.roof_flops_per_second = roof->flops_per_second();
    result.median_roof_flops_per_second = roof->median_flops_per_second();
    result.roof_variant = roof->variant();
    result.peak_flops_per_second = roof->peak_flops_per_second();
  }
  result.peak_memory_bytes = peak_memory_bytes();
  result.taken_memory_bytes = taken_memory_bytes();
  result.estimate = estimate_memory(shape, bench.memory_question(options, result.tokens));
  return result;
}

}  // namespace msplora
