#pragma once

#include <cstdint>
#include <vector>

#include "federated/attached_adapter.h"
#include "msplora/federated/aggregator.h"
#include "msplora/federated/channel.h"
#include "msplora/federated/federation.h"

namespace msplora::detail {

/// One client: its examples, and what it does with a message. Clients of one process share the frozen base
/// with what was merged into it; they take turns on it.
class Client {
 public:
  /// All must outlive it. `layout` is the client's own, `global` the one that `merged` belongs to.
  struct Place {
    Model& model;
    const FederationSetup& setup;
    const AggregatorTraits& traits;
    const Layout& layout;
    const Layout& global;
    const std::vector<MergedProduct>& merged;
  };
  Client(const Place& place, int64_t id) : place_(place), id_(id) {}

  /// Puts an adapter on the model, fills it with the message, trains it and takes it off. What ends in
  /// numbers that are not finite is a problem in the report. Throws as Trainer::run does otherwise.
  Answer answer(const Message& message) const;

 private:
  Answer train(int64_t round, Adapter& adapter) const;

  Place place_;
  int64_t id_;
};

}  // namespace msplora::detail
