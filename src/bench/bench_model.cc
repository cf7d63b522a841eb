#include "bench/bench_model.h"

#include <fmt/format.h>
#include <unistd.h>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/adapters/planning.h"
#include "msplora/core/paths.h"
#include "msplora/tasks/target.h"

namespace msplora {

ModelTask bench_task_of(const ModelConfig& config) {
  return supports_task(config.model_type, ModelTask::kCausalLm) ? ModelTask::kCausalLm
                                                                : ModelTask::kSequenceClassification;
}

}  // namespace msplora

namespace msplora::detail {

namespace fs = std::filesystem;

std::unique_ptr<Task> bench_task(const Model& model) {
  if (model.task() == ModelTask::kCausalLm) return make_task("causal_lm", {});
  std::vector<std::string> names;
  for (int64_t i = 0; i < model.config().num_labels; ++i) names.push_back(std::to_string(i));
  TaskSettings settings;
  settings.labels = LabelMap::from_list(names);
  return make_task("classification", std::move(settings));
}

int64_t BenchModel::trainable_parameters() const {
  int64_t count = 0;
  for (const TrainableTensor& tensor : trainable) count += tensor.tensor.numel();
  return count;
}

MemoryQuestion BenchModel::memory_question(const StepBenchOptions& options, int64_t tokens) const {
  MemoryQuestion question = adapter ? msplora::memory_question(*adapter) : MemoryQuestion();
  question.trainable_parameters = trainable_parameters();
  question.trains_base = question.trains_base || adapter == nullptr;
  question.tokens_per_batch = tokens;
  question.bytes_per_weight = options.dtype == at::kBFloat16 ? 2 : 4;
  question.bytes_in_products = bytes_in_products(options.dtype);
  question.is_causal_lm = model->task() == ModelTask::kCausalLm;
  question.checkpoint_activations = options.checkpoint_activations;
  return question;
}

StepQuestion BenchModel::question(std::vector<int64_t> lengths, bool checkpoint_activations) const {
  StepQuestion question;
  question.reads_one_row = model->task() == ModelTask::kSequenceClassification;
  if (model->task() == ModelTask::kCausalLm) {
    for (const int64_t length : lengths) question.predicted_tokens += length - 1;
  }
  question.lengths = std::move(lengths);
  question.checkpoint_activations = checkpoint_activations;
  for (const Site& site : model->sites()) {
    SiteWork work;
    for (size_t i = 0; adapter != nullptr && i < adapter->sites().size(); ++i) {
      if (adapter->sites()[i].path != site.path) continue;
      work.has_adapter = true;
      for (const LowRankTerm& term : adapter->terms(i)) work.rank += term.down.size(0);
    }
    question.sites.push_back(work);
  }
  std::vector<std::string> trained;
  for (const Parameter& parameter : model->parameters()) {
    const at::Tensor& tensor = parameter.tensor();
    if (tensor.defined() && tensor.requires_grad()) trained.push_back(parameter.name);
  }
  note_trained(model->architecture(), trained, question);
  return question;
}

TrainerSetup BenchModel::setup(const StepBenchOptions& options, const fs::path& directory) const {
  TrainerSetup setup;
  setup.directory = directory;
  setup.method = options.adapter.method;
  setup.trainable = trainable;
  setup.adapter = adapter.get();
  setup.options.lr = 1e-4;
  setup.options.seed = static_cast<int64_t>(options.seed);
  setup.options.dtype = options.dtype == at::kBFloat16 ? "bfloat16" : "float32";
  setup.options.checkpoint_activations = options.checkpoint_activations;
  setup.options.log_every = 1;  // so that a report to the sinks is about one step
  return setup;
}

BenchModel make_bench_model(const StepBenchOptions& options, int64_t num_labels, ModelTask task) {
  const bool trains_all = trains_whole_base(options.adapter);
  ModelLoadOptions load;
  load.task = task;
  load.num_labels = num_labels;
  load.compute_dtype = options.dtype;
  load.device = options.device;
  load.seed = options.seed;
  load.dropout = options.dropout;
  load.keep_float32 = trains_all;
  BenchModel bench;
  bench.model =
      options.weights.empty() ? create_model(options.model, load) : load_model(options.weights, load);
  if (!trains_all) bench.adapter = create_adapter(options.adapter, target_of(*bench.model), options.seed);
  bench.trainable = trains_all ? all_trainable(bench.model->parameters()) : bench.adapter->trainable();
  return bench;
}

ScratchDirectory::ScratchDirectory() {
  // Several benchmarks of one process may be alive together (tests).
  for (int attempt = 0;; ++attempt) {
    path_ = fs::temp_directory_path() /
            fmt::format("msplora-bench-{}-{}", static_cast<int64_t>(getpid()), attempt);
    if (path_exists(path_)) continue;
    make_directories(path_);
    return;
  }
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace msplora::detail
