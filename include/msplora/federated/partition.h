#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/federated/options.h"

namespace msplora {

/// The examples of each client: indices, ascending. Every example belongs to exactly one client.
using Partition = std::vector<std::vector<uint32_t>>;

/// Shuffled and cut into parts whose sizes differ by one at most. All functions here depend on their
/// arguments alone and throw Error{kConfig} when a client would stay without examples.
Partition partition_iid(size_t examples, int64_t clients, uint64_t seed);

/// For every class, shares p ~ Dirichlet(alpha, ..., alpha) over the clients; the shuffled examples of the
/// class are cut at floor(n (p_1 + ... + p_k)). Drawn anew, at most `max_retries` times, while a client has
/// fewer than `min_size` examples; then Error{kConfig}.
Partition partition_dirichlet(const std::vector<int64_t>& labels, int64_t clients,
                              const PartitionOptions& options, uint64_t seed);

/// Sorted by class (shuffled within one) and cut into clients * per_client pieces of equal size, dealt at
/// random (McMahan et al., AISTATS 2017).
Partition partition_shards(const std::vector<int64_t>& labels, int64_t clients, int64_t per_client,
                           uint64_t seed);

/// Client k has `per_client` different classes; a class is divided evenly among the clients that have it.
/// Throws when clients * per_client does not reach all classes.
Partition partition_classes(const std::vector<int64_t>& labels, int64_t clients, int64_t per_client,
                            uint64_t seed);

/// Whole groups. As many clients as groups: one each, in the order of the names. Fewer clients: the largest
/// group first, to the client with the fewest examples so far. More clients than groups is an error.
Partition partition_groups(const std::vector<std::string>& groups, int64_t clients);

/// What the labels (empty: the task has none) and groups (empty: none were read) of the examples allow.
struct PartitionInput {
  size_t examples = 0;
  std::vector<int64_t> labels;
  std::vector<std::string> groups;
};
Partition make_partition(const PartitionOptions& options, int64_t clients, const PartitionInput& input,
                         uint64_t seed);

/// How unlike each other the clients are.
struct PartitionReport {
  std::vector<std::vector<int64_t>> counts;  // [client][class]
  std::vector<double> effective_classes;     // of each client: exp of the entropy of its classes
  /// Mean over the clients of the total variation distance, half the sum of |p_client(c) - p(c)|, between its
  /// classes and those of all examples: 0 is iid, at most 1.
  double mean_total_variation = 0.0;
};
PartitionReport describe_partition(const Partition& partition, const std::vector<int64_t>& labels,
                                   int64_t classes);

/// The clients of a round, ascending: round(fraction * clients), at least `at_least_clients`, drawn without
/// replacement from (seed, round).
std::vector<int64_t> sample_clients(int64_t clients, double fraction, int64_t at_least_clients, uint64_t seed,
                                    int64_t round);

}  // namespace msplora
