#include "conformance/harness.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tanh.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "models/small_config.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/tasks/target.h"

namespace msplora::testing {
namespace {

constexpr int64_t kVocabulary = 48;

ModelConfig tiny_config(const std::string& model_type, double dropout, Heads heads) {
  nlohmann::json keys = {{"vocab_size", kVocabulary},
                         {"hidden_size", 16},
                         {"num_hidden_layers", TinyModel::kLayers},
                         {"num_attention_heads", 2},
                         {"intermediate_size", 24},
                         {"max_position_embeddings", 24},
                         {"initializer_range", 0.25},
                         {"hidden_dropout_prob", dropout},
                         {"attention_probs_dropout_prob", dropout},
                         {"attention_bias", true},
                         {"num_labels", 3}};
  if (heads == Heads::kGrouped)
    keys.update({{"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"head_dim", 6}});
  return model_test::small_config(model_type, keys);
}

PackedInput fixed_batch() {
  PackedInput input;
  input.cu_seqlens = {0, 5, 8, 16, 20};
  input.input_ids = (at::arange(input.tokens(), at::kLong) * 7).remainder(kVocabulary - 5) + 4;
  return input;
}

at::Tensor noise(const std::string& name, at::IntArrayRef shape, double scale) {
  at::Tensor tensor = at::empty(shape, at::kDouble);
  RandomStream stream(17, "noise." + name);
  double* values = tensor.data_ptr<double>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = scale * stream.normal();
  return tensor;
}

std::vector<TokenizedExample> random_examples(size_t count, uint64_t seed) {
  RandomStream random(seed, "conformance examples");
  std::vector<TokenizedExample> examples(count);
  for (TokenizedExample& example : examples) {
    const uint64_t length = 3 + random.below(6);
    for (uint64_t i = 0; i < length; ++i) {
      example.ids.push_back(static_cast<int32_t>(4 + random.below(kVocabulary - 4)));
    }
    example.label = static_cast<int64_t>(random.below(3));
  }
  return examples;
}

/// Tells which step is being computed and what is free in it.
class WatchedData : public TrainingData {
 public:
  WatchedData(const Task& task, Model& model, Examples train, const BatchOptions& batches,
              std::vector<NamedExamples> validation, std::function<void(int64_t)> on_step)
      : TrainingData(task, model, std::move(train), batches, std::move(validation)),
        on_step_(std::move(on_step)) {}

  at::Tensor loss_sum(const Batch& batch, const ForwardContext& context) override {
    on_step_(static_cast<int64_t>(context.step));
    return TrainingData::loss_sum(batch, context);
  }

 private:
  std::function<void(int64_t)> on_step_;
};

std::unique_ptr<Task> three_classes() {
  TaskSettings settings;
  settings.labels = LabelMap::from_list({"0", "1", "2"});
  return make_task("classification", std::move(settings));
}

}  // namespace

TinyModel::TinyModel(const std::string& model_type, at::ScalarType dtype, double dropout,
                     const at::Device& device, Heads heads) {
  ModelLoadOptions options;
  options.compute_dtype = dtype;
  options.device = device;
  options.seed = 5;
  model_ = create_model(tiny_config(model_type, dropout, heads), options);
  // As in a trained model, no bias is 0: what scales biases would have no effect.
  c10::NoGradGuard no_grad;
  for (const Parameter& parameter : model_->parameters()) {
    if (!parameter.name.ends_with(".bias")) continue;
    at::Tensor value = parameter.values();
    value.add_(noise(parameter.name, value.sizes(), 0.1).to(value.options()));
  }
}

AdapterTarget TinyModel::target() {
  return target_of(*model_, "tiny");
}

at::Tensor TinyModel::logits() {
  c10::NoGradGuard no_grad;
  return model_->forward(fixed_batch(), {});
}

at::Tensor TinyModel::loss(const ForwardContext& context) {
  const at::Tensor logits = model_->forward(fixed_batch(), context);
  const at::Tensor weights = at::arange(logits.numel(), logits.options()).reshape(logits.sizes()) / 7.0 - 0.6;
  return (at::tanh(logits) * weights).sum();
}

void randomise(const Adapter& adapter, double scale) {
  c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter.trainable()) {
    at::Tensor(entry.tensor).add_(noise(entry.name, entry.tensor.sizes(), scale));
  }
}

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  const double scale = std::max(1e-12, b.abs().max().item<double>());
  return (a - b).abs().max().item<double>() / scale;
}

TinyTraining::TinyTraining(const AdapterConfig& config, const std::string& model_type, double dropout,
                           const at::Device& device, Heads heads)
    : model_(model_type, at::kFloat, dropout, device, heads),
      adapter_(create_adapter(config, model_.target(), 7)),
      examples_(random_examples(40, 3)) {
  if (adapter_->search() != nullptr) validation_ = random_examples(24, 4);
  options.batch_size = 4;
  options.lr = 1e-2;
  options.log_every = 1000;
  options.seed = 3;
  watch();
}

TinyTraining::~TinyTraining() = default;

void TinyTraining::watch() {
  for (const TrainableTensor& entry : adapter_->trainable()) {
    entry.tensor.register_hook([this, name = entry.name](const at::Tensor& gradient) {
      if (gradient.abs().max().item<double>() > 0.0) history_[name].gradient.insert(step_);
    });
  }
}

TrainingResult TinyTraining::run(const std::filesystem::path& directory, bool resume) {
  const auto task = three_classes();
  std::vector<NamedExamples> validation;
  if (!validation_.empty()) validation.push_back({"validation", all_of(validation_)});
  WatchedData data(*task, model_.model(), all_of(examples_), batch_options(options), std::move(validation),
                   [this](int64_t step) {
                     step_ = step;
                     for (const TrainableTensor& entry : adapter_->trainable()) {
                       if (entry.tensor.requires_grad()) history_[entry.name].free.insert(step);
                     }
                   });
  TrainerSetup setup;
  setup.options = options;
  setup.directory = directory;
  setup.resume = resume;
  setup.method = adapter_->config().method;
  setup.trainable = adapter_->trainable();
  setup.adapter = adapter_.get();
  setup.base_fingerprint = adapter_->target().base_fingerprint;
  return Trainer(std::move(setup), data).run();
}

std::vector<NamedTensor> TinyTraining::values() const {
  std::vector<NamedTensor> values;
  for (const TrainableTensor& entry : adapter_->trainable()) {
    values.push_back({entry.name, entry.tensor.detach().clone()});
  }
  for (const NamedTensor& entry : adapter_->state().tensors) {
    values.push_back({entry.name, entry.tensor.detach().clone()});
  }
  return values;
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void Conformance::SetUp() {
  const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
  const auto excuse = row().excused.find(test.substr(0, test.find('/')));
  if (excuse != row().excused.end()) GTEST_SKIP() << excuse->second;
}

}  // namespace msplora::testing
