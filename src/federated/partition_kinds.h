#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/federated/partition.h"

/// What is known of the ways to deal examples to clients, in partition.cc.
namespace msplora::detail {

/// What the examples must have.
enum class PartitionNeed { kNothing, kLabels, kGroups };

struct PartitionKind {
  std::string name;
  PartitionNeed needs;
  std::vector<std::string> options;  // of PartitionOptions that no other kind reads
  Partition (*make)(const PartitionOptions& options, int64_t clients, const PartitionInput& input,
                    uint64_t seed);
};
const std::vector<PartitionKind>& partition_kinds();
/// Null for an unknown name.
const PartitionKind* find_partition_kind(const std::string& name);

}  // namespace msplora::detail
