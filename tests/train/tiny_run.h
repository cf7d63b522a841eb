#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/small_config.h"
#include "msplora/core/random.h"
#include "msplora/models/model.h"
#include "msplora/tasks/prediction.h"
#include "msplora/tasks/task.h"
#include "msplora/train/trainer.h"

namespace msplora {

inline ModelConfig tiny_config(const std::string& model_type, double dropout) {
  return model_test::small_config(model_type, {{"vocab_size", 60},
                                               {"hidden_size", 32},
                                               {"num_hidden_layers", 3},
                                               {"num_attention_heads", 4},
                                               {"intermediate_size", 64},
                                               {"max_position_embeddings", 40},
                                               {"type_vocab_size", 1},
                                               {"layer_norm_eps", 1e-5},
                                               {"hidden_dropout_prob", dropout},
                                               {"attention_probs_dropout_prob", dropout},
                                               {"initializer_range", 0.2}});
}
inline ModelConfig tiny_config(double dropout = 0.0) {
  return tiny_config("roberta", dropout);
}

/// Sequences of random tokens; the class says whether token 7 stands among them.
inline std::vector<TokenizedExample> tiny_examples(size_t count, uint64_t seed) {
  RandomStream random(seed, "tiny examples");
  std::vector<TokenizedExample> examples(count);
  for (TokenizedExample& example : examples) {
    const uint64_t length = 4 + random.below(9);
    for (uint64_t i = 0; i < length; ++i) example.ids.push_back(static_cast<int32_t>(10 + random.below(40)));
    example.label = static_cast<int64_t>(random.below(2));
    if (example.label == 1) example.ids[random.below(length)] = 7;
    example.target = static_cast<double>(length) / 10.0;
  }
  return examples;
}

/// Classification with numbers for names, or regression; the examples come encoded.
inline std::unique_ptr<Task> text_task(bool is_regression = false, std::vector<std::string> metrics = {},
                                       int64_t classes = 2) {
  TaskSettings settings;
  settings.metrics = std::move(metrics);
  if (is_regression) return make_task("regression", std::move(settings));
  std::vector<std::string> names;
  for (int64_t i = 0; i < classes; ++i) names.push_back(std::to_string(i));
  settings.labels = LabelMap::from_list(names);
  return make_task("classification", std::move(settings));
}

inline std::vector<NamedExamples> validation_of(const std::vector<TokenizedExample>& examples) {
  return {{"validation", all_of(examples)}};
}

inline at::Tensor predict_logits(Model& model, const std::vector<TokenizedExample>& examples,
                                 int64_t batch_tokens = 4096) {
  return outputs_of(*text_task(), model, all_of(examples), batch_tokens);
}

/// The batch of a single example.
inline Batch batch_of(const Task& task, const std::vector<TokenizedExample>& examples, uint32_t index) {
  return task.collate(all_of(examples), std::vector<uint32_t>{index}, 0);
}

/// Trains an adapter on causal language modelling: the loss afterwards, as a share of that before.
inline double share_of_loss_left(Model& model, Adapter& adapter,
                                 const std::vector<TokenizedExample>& examples, int64_t batch_size,
                                 TrainOptions options, const std::filesystem::path& directory,
                                 bool resume = false) {
  BatchOptions batches;
  batches.batch_size = batch_size;
  const auto task = make_task("causal_lm", {});
  TrainingData data(*task, model, all_of(examples), batches, validation_of(examples));
  const double before = data.evaluate().metrics[0].second;
  TrainerSetup setup;
  setup.directory = directory;
  setup.resume = resume;
  setup.method = adapter.config().method;
  setup.trainable = adapter.trainable();
  setup.adapter = &adapter;
  setup.options = std::move(options);
  Trainer(std::move(setup), data).run();
  return data.evaluate().metrics[0].second / before;
}

/// A small model with low-rank terms put on by hand, so that these tests need no adapter method.
struct TinyRun {
  explicit TinyRun(double dropout = 0.1, bool is_regression = false) {
    ModelLoadOptions load;
    load.num_labels = is_regression ? 1 : 2;
    load.seed = 5;
    model = create_model(tiny_config(dropout), load);
    for (const Site& site : model->sites()) {
      if (site.module == "query" || site.module == "value") add_low_rank(site, dropout);
    }
    for (const Parameter& parameter : model->parameters()) {
      if (!parameter.name.starts_with("classifier")) continue;
      parameter.values().requires_grad_(true);
      trainable.push_back({parameter.name, parameter.values(), ParameterGroup::kHead, 0});
    }
    options.lr = 5e-3;
    options.max_steps = 0;
    options.epochs = 2;
    options.batch_size = 6;
    options.seed = 3;
    options.log_every = 2;
    task = text_task(is_regression);
  }

  void add_low_rank(const Site& site, double dropout) {
    RandomStream random(1, site.path);
    at::Tensor down = at::empty({4, site.in_features});
    for (int64_t i = 0; i < down.numel(); ++i)
      down.data_ptr<float>()[i] = static_cast<float>(0.2 * random.normal());
    at::Tensor up = at::zeros({site.out_features, 4});
    down.requires_grad_(true);
    up.requires_grad_(true);
    auto update = std::make_shared<SiteUpdate>();
    update->low_rank = {{down, up, 2.0, dropout, hash_name(site.path)}};
    site.linear->update = update;
    trainable.push_back({site.path + ".lora_A", down});
    trainable.push_back({site.path + ".lora_B", up});
  }

  TrainingData& make_data() {
    batches = batch_options(options);
    batches.window_batches = 3;
    data =
        std::make_unique<TrainingData>(*task, *model, all_of(train, where), batches,
                                       validate ? validation_of(validation) : std::vector<NamedExamples>());
    return *data;
  }

  TrainerSetup setup(const std::filesystem::path& directory, bool resume = false) {
    TrainerSetup setup;
    setup.options = options;
    setup.directory = directory;
    setup.resume = resume;
    setup.method = "by hand";
    setup.trainable = trainable;
    setup.recipe = {
        {"train", {{"lr", options.lr}, {"epochs", options.epochs}, {"stop_at", options.stop_at}}}};
    setup.sinks.push_back(make_jsonl_sink(directory / "metrics.jsonl"));
    return setup;
  }

  TrainingResult run(const std::filesystem::path& directory, bool resume = false) {
    TrainingData& of_run = make_data();
    return Trainer(setup(directory, resume), of_run).run();
  }

  std::vector<at::Tensor> values() const {
    std::vector<at::Tensor> values;
    for (const TrainableTensor& tensor : trainable) values.push_back(tensor.tensor.detach().clone());
    return values;
  }

  std::unique_ptr<Model> model;
  std::vector<TrainableTensor> trainable;
  std::vector<TokenizedExample> train = tiny_examples(50, 1);
  std::vector<TokenizedExample> validation = tiny_examples(20, 2);
  bool validate = true;
  TrainOptions options;
  std::function<std::string(size_t)> where;
  std::unique_ptr<Task> task;
  BatchOptions batches;
  std::unique_ptr<TrainingData> data;
};

inline bool all_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!at::equal(a[i], b[i])) return false;
  }
  return true;
}

}  // namespace msplora
