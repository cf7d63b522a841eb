#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "msplora/federated/federation.h"
#include "msplora/federated/options.h"
#include "msplora/runs/run.h"

namespace msplora {

/// The training data of a recipe, dealt to its clients.
struct ClientSplit {
  std::vector<ClientData> clients;
  std::vector<int64_t> sizes;  // of each client, what it set aside included
  std::vector<std::string> labels;
  PartitionReport report;  // empty without classes
};

/// Throws Error{kConfig} when the data cannot be dealt as federated.partition says.
ClientSplit split_clients(const FederateRecipe& recipe, const RunData& data);

/// Everything that a run of `federate` works on: a run whose adapter is that of the federation.
struct FederatedRun : Run {
  FederatedOptions federated;
  ClientSplit split;
  std::unique_ptr<Federation> federation;  // null before run_rounds()

  /// The whole recipe, as it runs.
  FederateRecipe whole_recipe() const;
};

/// As for a recipe of `train`; the data are dealt to the clients.
FederatedRun check_run(const FederateRecipe& recipe, ErrorList& errors);
FederatedRun open_run(const FederateRecipe& recipe, const OpenOptions& options = {});

/// Does the rounds, evaluates the global model on the test data, writes adapters, rounds.jsonl and
/// metrics.json. `on_round` sees every round, `on_begin` the number of rounds done before. A run that
/// federated.stop_at pauses gives a report with `paused`. Throws as Federation::run() does.
RunReport run_rounds(FederatedRun& run, const std::function<void(const RoundReport&)>& on_round = {},
                     const std::function<void(int64_t done)>& on_begin = {});

}  // namespace msplora
