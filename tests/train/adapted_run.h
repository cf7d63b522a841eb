#pragma once

#include <c10/core/GradMode.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/adapters/merge.h"
#include "msplora/tasks/target.h"
#include "train/tiny_run.h"

namespace msplora {

/// A small model with the adapter of a configuration, and what it takes to train it.
struct AdaptedRun {
  explicit AdaptedRun(const AdapterConfig& config, at::ScalarType dtype = at::kFloat,
                      const ModelConfig& shape = tiny_config(0.1)) {
    ModelLoadOptions load;
    load.num_labels = 2;
    load.seed = 5;
    load.compute_dtype = dtype;
    model = create_model(shape, load);
    adapter = create_adapter(config, target_of(*model), 7);
    options.batch_size = 5;
    options.lr = 1e-2;
    options.save_every = 1;
    options.keep_checkpoints = 100;
  }

  TrainingResult run(const std::filesystem::path& directory, bool resume = false) {
    data = std::make_unique<TrainingData>(*task, *model, all_of(train), batch_options(options),
                                          validation_of(validation));
    TrainerSetup setup;
    setup.options = options;
    setup.directory = directory;
    setup.resume = resume;
    setup.method = adapter->config().method;
    setup.trainable = adapter->trainable();
    setup.adapter = adapter.get();
    setup.ranks = ranks;
    setup.keeps_checkpoints = !directory.empty();
    return Trainer(std::move(setup), *data).run();
  }

  at::Tensor logits() {
    c10::NoGradGuard no_grad;
    return predict_logits(*model, validation);
  }

  std::vector<at::Tensor> values() const {
    std::vector<at::Tensor> values;
    for (const TrainableTensor& tensor : adapter->trainable())
      values.push_back(tensor.tensor.detach().clone());
    return values;
  }

  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;
  std::vector<TokenizedExample> train = tiny_examples(45, 1);
  std::vector<TokenizedExample> validation = tiny_examples(12, 2);
  TrainOptions options;
  Communicator* ranks = nullptr;
  std::unique_ptr<Task> task = text_task();
  std::unique_ptr<TrainingData> data;
};

}  // namespace msplora
