#pragma once

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/federated/federation.h"
#include "msplora/tasks/target.h"
#include "train/tiny_run.h"

namespace msplora {

/// A small model and clients with random tokens: short rounds of a few steps.
struct TinyFederation {
  explicit TinyFederation(const std::string& aggregator, double dropout = 0.0, bool is_regression = false) {
    ModelLoadOptions load;
    load.num_labels = is_regression ? 1 : 2;
    load.seed = 5;
    model = create_model(tiny_config(dropout), load);
    adapter.method = "lora";
    adapter.rank = 4;
    adapter.alpha = 6.0;  // not the rank
    adapter.dropout = dropout;
    adapter.target_modules = {"query", "value"};
    train.lr = 1e-2;
    train.epochs = 1;
    train.batch_size = 6;
    train.weight_decay = 0.0;
    train.seed = 3;
    options.aggregator = aggregator;
    options.clients = 3;
    options.rounds = 2;
    options.held_out = 0.0;
    task = text_task(is_regression);
  }

  /// The examples of each client, unequal on purpose.
  std::vector<ClientData> make_clients() const {
    std::vector<ClientData> clients;
    for (int64_t k = 0; k < options.clients; ++k) {
      const auto size = static_cast<size_t>(examples_each > 0 ? examples_each : 10 + 5 * k);
      ClientData& client = clients.emplace_back();
      client.train = tiny_examples(size, equal_clients ? 100 : 100 + static_cast<uint64_t>(k));
      if (options.held_out > 0) client.held_out = tiny_examples(6, 200 + static_cast<uint64_t>(k));
      for (uint32_t i = 0; i < size; ++i) client.rows.push_back(i);
    }
    return clients;
  }

  Federation& start(const std::filesystem::path& directory = {}, bool resume = false) {
    FederationSetup setup;
    setup.options = options;
    setup.adapter = adapter;
    setup.train = train;
    setup.target = target_of(*model);
    setup.clients = clients.empty() ? make_clients() : clients;
    setup.task = task.get();
    if (validate) setup.validation = validation_of(validation);
    setup.batches = batch_options(train);
    setup.batches.shuffle = shuffle;
    setup.where = where;
    setup.directory = directory;
    setup.resume = resume;
    setup.recipe = {{"federated", {{"rounds", options.rounds}, {"stop_at", options.stop_at}}},
                    {"train", {{"lr", train.lr}}}};
    setup.channel = channel;
    setup.on_round = [this](const RoundReport& report) { reports.push_back(report); };
    federation = std::make_unique<Federation>(std::move(setup), *model);
    return *federation;
  }

  std::unique_ptr<Model> model;
  AdapterConfig adapter;
  TrainOptions train;
  FederatedOptions options;
  std::unique_ptr<Task> task;
  std::function<std::string(size_t)> where;
  std::vector<ClientData> clients;  // empty: make_clients()
  std::vector<TokenizedExample> validation = tiny_examples(20, 2);
  bool validate = false;
  bool equal_clients = false;
  bool shuffle = true;
  int64_t examples_each = 0;
  std::function<std::unique_ptr<Channel>(std::unique_ptr<Channel>)> channel;
  std::vector<RoundReport> reports;
  std::unique_ptr<Federation> federation;
};

/// The dense updates of all sites, then heads and biases.
inline std::vector<at::Tensor> effects_of(const Adapter& adapter) {
  std::vector<at::Tensor> effects;
  for (size_t i = 0; i < adapter.sites().size(); ++i) effects.push_back(adapter.change_of(i).weight);
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.group != ParameterGroup::kAdapter) effects.push_back(entry.tensor.detach().clone());
  }
  return effects;
}

inline double largest_difference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    largest = std::max(largest, (a[i] - b[i]).abs().max().item<double>());
  }
  return largest;
}

}  // namespace msplora
