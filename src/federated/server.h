#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "federated/attached_adapter.h"
#include "msplora/federated/aggregator.h"
#include "msplora/federated/federation.h"

namespace msplora::detail {

/// The server's side: the state, what it sends, how it takes answers in. It knows clients by their messages
/// alone.
class Server {
 public:
  /// `setup` must outlive it. Draws the global factors from the seed of the run.
  explicit Server(const FederationSetup& setup);

  const ServerState& state() const { return state_; }
  ServerState& state() { return state_; }
  const AggregatorTraits& traits() const { return kind_.traits; }

  const Layout& global_layout() const { return *layouts_.front(); }
  const Layout& layout_of(int64_t client) const;

  /// What the client needs for the round after state().round.
  Message message_to(int64_t client) const;
  /// The global factors, heads and biases.
  Message global_message() const;

  /// What an answer holds, in float64. Where it cannot be used, `problem` says why.
  ClientUpdate update_of(int64_t client, const Message& answer, std::string& problem) const;

  /// Combines the updates and takes the result over.
  Aggregate take(std::vector<ClientUpdate> updates, const std::vector<double>& weights);

  /// The global model as one adapter, attached (Federation::global_adapter).
  std::unique_ptr<Adapter> global_adapter() const;

 private:
  void add_missed_stacks(int64_t client, Message& message) const;
  void merge(const std::vector<FactorPair>& products);

  const FederationSetup& setup_;
  const AggregatorKind& kind_;
  std::vector<std::unique_ptr<Layout>> layouts_;  // the global one, then those of other ranks
  ServerState state_;
};

}  // namespace msplora::detail
