#include "msplora/federated/partition.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "federated/partition_kinds.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

std::vector<uint32_t> all_indices(size_t count) {
  std::vector<uint32_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0U);
  return indices;
}

/// The examples of each class, shuffled, by ascending class.
std::vector<std::vector<uint32_t>> shuffled_classes(const std::vector<int64_t>& labels,
                                                    RandomStream& random) {
  std::map<int64_t, std::vector<uint32_t>> by_class;
  for (size_t i = 0; i < labels.size(); ++i) by_class[labels[i]].push_back(static_cast<uint32_t>(i));
  std::vector<std::vector<uint32_t>> classes;
  for (auto& [label, indices] : by_class) {
    random.shuffle(indices);
    classes.push_back(std::move(indices));
  }
  return classes;
}

Partition finished(Partition partition, const char* kind) {
  for (size_t k = 0; k < partition.size(); ++k) {
    std::sort(partition[k].begin(), partition[k].end());
    if (partition[k].empty()) {
      throw Error(ErrorCode::kConfig, "federated.partition",
                  fmt::format("`{}` leaves client {} of {} without examples", kind, k, partition.size()),
                  "take fewer clients");
    }
  }
  return partition;
}

/// Where piece `i` of `pieces` equal ones begins.
size_t cut_point(size_t count, size_t i, size_t pieces) {
  return count * i / pieces;
}

/// log of a draw from Gamma(alpha, 1) (Marsaglia & Tsang 2000). In logarithms, because for small alpha the
/// draw itself is often below the smallest number: Gamma(a) is Gamma(a + 1) times U^(1/a).
double log_gamma_draw(double alpha, RandomStream& random) {
  if (alpha < 1.0) return log_gamma_draw(alpha + 1.0, random) + std::log(1.0 - random.uniform()) / alpha;
  const double d = alpha - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = random.normal();
    const double root = 1.0 + c * x;
    const double u = 1.0 - random.uniform();
    if (root <= 0.0) continue;
    const double v = root * root * root;
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return std::log(d * v);
  }
}

std::vector<double> dirichlet_draw(size_t count, double alpha, RandomStream& random) {
  std::vector<double> shares(count);
  for (double& share : shares) share = log_gamma_draw(alpha, random);
  const double largest = *std::max_element(shares.begin(), shares.end());
  double sum = 0.0;
  for (double& share : shares) sum += share = std::exp(share - largest);
  for (double& share : shares) share /= sum;
  return shares;
}

Partition dirichlet_once(const std::vector<int64_t>& labels, size_t clients, double alpha,
                         RandomStream& random) {
  Partition partition(clients);
  for (const auto& indices : shuffled_classes(labels, random)) {
    const std::vector<double> shares = dirichlet_draw(clients, alpha, random);
    double reached = 0.0;
    size_t begin = 0;
    for (size_t k = 0; k < clients; ++k) {
      reached += shares[k];
      const auto wanted = static_cast<size_t>(reached * static_cast<double>(indices.size()));
      const size_t end = k + 1 == clients ? indices.size() : std::clamp(wanted, begin, indices.size());
      partition[k].insert(partition[k].end(), indices.begin() + static_cast<std::ptrdiff_t>(begin),
                          indices.begin() + static_cast<std::ptrdiff_t>(end));
      begin = end;
    }
  }
  return partition;
}

size_t smallest_part(const Partition& partition) {
  size_t smallest = std::numeric_limits<size_t>::max();
  for (const auto& part : partition) smallest = std::min(smallest, part.size());
  return smallest;
}

}  // namespace

Partition partition_iid(size_t examples, int64_t clients, uint64_t seed) {
  std::vector<uint32_t> order = all_indices(examples);
  RandomStream(seed, "partition iid").shuffle(order);
  const auto parts = static_cast<size_t>(clients);
  Partition partition(parts);
  for (size_t k = 0; k < parts; ++k) {
    partition[k].assign(order.begin() + static_cast<std::ptrdiff_t>(cut_point(examples, k, parts)),
                        order.begin() + static_cast<std::ptrdiff_t>(cut_point(examples, k + 1, parts)));
  }
  return finished(std::move(partition), "iid");
}

Partition partition_dirichlet(const std::vector<int64_t>& labels, int64_t clients,
                              const PartitionOptions& options, uint64_t seed) {
  const auto parts = static_cast<size_t>(clients);
  const auto wanted = static_cast<size_t>(options.min_size);
  if (wanted * parts > labels.size()) {
    throw Error(ErrorCode::kConfig, "federated.partition.min_size",
                fmt::format("{} clients with at least {} examples need {}, the training data has {}", clients,
                            wanted, wanted * parts, labels.size()),
                "take fewer clients or a smaller min_size");
  }
  size_t best = 0;
  for (int64_t attempt = 0; attempt <= options.max_retries; ++attempt) {
    RandomStream random(mix_seed(seed, static_cast<uint64_t>(attempt)), "partition dirichlet");
    Partition partition = dirichlet_once(labels, parts, options.alpha, random);
    const size_t smallest = smallest_part(partition);
    if (smallest >= wanted) return finished(std::move(partition), "dirichlet");
    best = std::max(best, smallest);
  }
  throw Error(
      ErrorCode::kConfig, "federated.partition",
      fmt::format("{} draws of Dirichlet({}) over {} clients left a client with fewer than min_size = {} "
                  "examples; the best draw had one with {}",
                  options.max_retries + 1, options.alpha, clients, wanted, best),
      "a larger alpha, fewer clients, a smaller min_size or more max_retries");
}

Partition partition_shards(const std::vector<int64_t>& labels, int64_t clients, int64_t per_client,
                           uint64_t seed) {
  RandomStream random(seed, "partition shards");
  std::vector<uint32_t> sorted;
  for (const auto& indices : shuffled_classes(labels, random)) {
    sorted.insert(sorted.end(), indices.begin(), indices.end());
  }
  const auto pieces = static_cast<size_t>(clients * per_client);
  std::vector<uint32_t> order = all_indices(pieces);
  random.shuffle(order);
  Partition partition(static_cast<size_t>(clients));
  for (size_t i = 0; i < pieces; ++i) {
    auto& part = partition[i / static_cast<size_t>(per_client)];
    const size_t begin = cut_point(sorted.size(), order[i], pieces);
    const size_t end = cut_point(sorted.size(), order[i] + 1, pieces);
    part.insert(part.end(), sorted.begin() + static_cast<std::ptrdiff_t>(begin),
                sorted.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return finished(std::move(partition), "shards");
}

Partition partition_classes(const std::vector<int64_t>& labels, int64_t clients, int64_t per_client,
                            uint64_t seed) {
  RandomStream random(seed, "partition classes");
  const auto classes = shuffled_classes(labels, random);
  const auto parts = static_cast<size_t>(clients), each = static_cast<size_t>(per_client);
  if (each > classes.size() || parts * each < classes.size()) {
    throw Error(ErrorCode::kConfig, "federated.partition.classes_per_client",
                fmt::format("{} clients with {} classes each do not fit data with {} classes", clients,
                            per_client, classes.size()),
                fmt::format("from {} to {}", (classes.size() + parts - 1) / parts, classes.size()));
  }
  // Consecutive windows of one permutation, taken cyclically: no class twice for a client, and every class
  // with nearly as many clients as any other.
  std::vector<uint32_t> order = all_indices(classes.size());
  random.shuffle(order);
  std::vector<std::vector<size_t>> holders(classes.size());
  for (size_t i = 0; i < parts * each; ++i) holders[order[i % classes.size()]].push_back(i / each);
  Partition partition(parts);
  for (size_t c = 0; c < classes.size(); ++c) {
    for (size_t h = 0; h < holders[c].size(); ++h) {
      const size_t begin = cut_point(classes[c].size(), h, holders[c].size());
      const size_t end = cut_point(classes[c].size(), h + 1, holders[c].size());
      auto& part = partition[holders[c][h]];
      part.insert(part.end(), classes[c].begin() + static_cast<std::ptrdiff_t>(begin),
                  classes[c].begin() + static_cast<std::ptrdiff_t>(end));
    }
  }
  return finished(std::move(partition), "classes");
}

Partition partition_groups(const std::vector<std::string>& groups, int64_t clients) {
  std::map<std::string, std::vector<uint32_t>> by_name;
  for (size_t i = 0; i < groups.size(); ++i) by_name[groups[i]].push_back(static_cast<uint32_t>(i));
  const auto parts = static_cast<size_t>(clients);
  if (parts > by_name.size()) {
    throw Error(
        ErrorCode::kConfig, "federated.clients",
        fmt::format("{} clients, but the group column has only {} different values", clients, by_name.size()),
        fmt::format("at most {}", by_name.size()));
  }
  std::vector<std::vector<uint32_t>> members;
  for (auto& [name, indices] : by_name) members.push_back(std::move(indices));
  if (parts == members.size()) return finished(std::move(members), "groups");
  std::stable_sort(members.begin(), members.end(),
                   [](const auto& a, const auto& b) { return a.size() > b.size(); });
  Partition partition(parts);
  for (const auto& indices : members) {
    auto& emptiest = *std::min_element(partition.begin(), partition.end(),
                                       [](const auto& a, const auto& b) { return a.size() < b.size(); });
    emptiest.insert(emptiest.end(), indices.begin(), indices.end());
  }
  return finished(std::move(partition), "groups");
}

const std::vector<detail::PartitionKind>& detail::partition_kinds() {
  using Options = PartitionOptions;
  using Input = PartitionInput;
  static const std::vector<PartitionKind> kinds = {
      {"iid",
       PartitionNeed::kNothing,
       {},
       [](const Options&, int64_t clients, const Input& input, uint64_t seed) {
         return partition_iid(input.examples, clients, seed);
       }},
      {"dirichlet",
       PartitionNeed::kLabels,
       {"alpha", "min_size", "max_retries"},
       [](const Options& options, int64_t clients, const Input& input, uint64_t seed) {
         return partition_dirichlet(input.labels, clients, options, seed);
       }},
      {"shards",
       PartitionNeed::kLabels,
       {"shards_per_client"},
       [](const Options& options, int64_t clients, const Input& input, uint64_t seed) {
         return partition_shards(input.labels, clients, options.shards_per_client, seed);
       }},
      {"classes",
       PartitionNeed::kLabels,
       {"classes_per_client"},
       [](const Options& options, int64_t clients, const Input& input, uint64_t seed) {
         return partition_classes(input.labels, clients, options.classes_per_client, seed);
       }},
      {"groups",
       PartitionNeed::kGroups,
       {},
       [](const Options&, int64_t clients, const Input& input, uint64_t) {
         return partition_groups(input.groups, clients);
       }},
  };
  return kinds;
}

const detail::PartitionKind* detail::find_partition_kind(const std::string& name) {
  const auto& kinds = partition_kinds();
  const auto found =
      std::find_if(kinds.begin(), kinds.end(), [&](const PartitionKind& kind) { return kind.name == name; });
  return found == kinds.end() ? nullptr : &*found;
}

std::vector<std::string> PartitionOptions::kinds() {
  std::vector<std::string> names;
  for (const detail::PartitionKind& kind : detail::partition_kinds()) names.push_back(kind.name);
  return names;
}

Partition make_partition(const PartitionOptions& options, int64_t clients, const PartitionInput& input,
                         uint64_t seed) {
  const detail::PartitionKind* const kind = detail::find_partition_kind(options.kind);
  if (kind == nullptr) {
    throw Error(ErrorCode::kConfig, "federated.partition.kind",
                fmt::format("unknown kind `{}`", options.kind),
                did_you_mean(options.kind, PartitionOptions::kinds()));
  }
  if (kind->needs == detail::PartitionNeed::kGroups && input.groups.size() != input.examples) {
    throw Error(ErrorCode::kConfig, "data.group",
                fmt::format("missing; partition.kind `{}` needs the column", options.kind),
                "name the column, or take another kind");
  }
  if (kind->needs == detail::PartitionNeed::kLabels && input.labels.size() != input.examples) {
    throw Error(ErrorCode::kConfig, "federated.partition.kind",
                fmt::format("`{}` needs class labels", options.kind), "iid or groups");
  }
  return kind->make(options, clients, input, seed);
}

PartitionReport describe_partition(const Partition& partition, const std::vector<int64_t>& labels,
                                   int64_t classes) {
  PartitionReport report;
  const auto width = static_cast<size_t>(classes);
  std::vector<int64_t> global(width);
  for (const auto& part : partition) {
    std::vector<int64_t>& counts = report.counts.emplace_back(width);
    for (const uint32_t index : part) ++counts.at(static_cast<size_t>(labels.at(index)));
    for (size_t c = 0; c < width; ++c) global[c] += counts[c];
  }
  const auto total = static_cast<double>(std::accumulate(global.begin(), global.end(), int64_t{0}));
  for (size_t k = 0; k < partition.size(); ++k) {
    const auto size = static_cast<double>(partition[k].size());
    double entropy = 0.0, distance = 0.0;
    for (size_t c = 0; c < width; ++c) {
      const double p = static_cast<double>(report.counts[k][c]) / size;
      if (p > 0.0) entropy -= p * std::log(p);
      distance += 0.5 * std::abs(p - static_cast<double>(global[c]) / total);
    }
    report.effective_classes.push_back(std::exp(entropy));
    report.mean_total_variation += distance / static_cast<double>(partition.size());
  }
  return report;
}

std::vector<int64_t> sample_clients(int64_t clients, double fraction, int64_t at_least_clients, uint64_t seed,
                                    int64_t round) {
  std::vector<int64_t> chosen(static_cast<size_t>(clients));
  std::iota(chosen.begin(), chosen.end(), int64_t{0});
  const int64_t wanted = std::llround(fraction * static_cast<double>(clients));
  const int64_t count = std::clamp(std::max(wanted, at_least_clients), int64_t{1}, clients);
  if (count == clients) return chosen;
  RandomStream random(mix_seed(seed, static_cast<uint64_t>(round)), "federated clients");
  random.shuffle(chosen);
  chosen.resize(static_cast<size_t>(count));
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace msplora
