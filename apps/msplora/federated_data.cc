#include "federated_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace msplora {

ClientSplit split_clients(const FederateRecipe& recipe, const PreparedData& data) {
  const FederatedOptions& options = recipe.federated;
  PartitionInput input;
  input.examples = data.train.examples.size();
  if (data.labels) {
    for (const TokenizedExample& example : data.train.examples) input.labels.push_back(example.label);
  }
  if (recipe.data.group) {
    for (const Example& example : data.train.data.examples()) input.groups.push_back(example.group);
  }
  const auto seed = static_cast<uint64_t>(recipe.train.seed);
  const Partition partition = make_partition(options.partition, options.clients, input, seed);
  ClientSplit split;
  split.clients = divide(data.train.examples, partition, options.held_out, seed);
  for (const auto& part : partition) split.sizes.push_back(static_cast<int64_t>(part.size()));
  if (data.labels) {
    split.labels = data.labels->names();
    split.report = describe_partition(partition, input.labels, data.labels->size());
  }
  return split;
}

std::string clients_line(const ClientSplit& split, const FederatedOptions& options) {
  const auto [fewest, most] = std::minmax_element(split.sizes.begin(), split.sizes.end());
  std::string kind = options.partition.kind;
  if (kind == "dirichlet") kind += fmt::format(" {}", options.partition.alpha);
  std::string text = fmt::format("{}, {}: {} to {} examples", split.sizes.size(), kind, *fewest, *most);
  const std::vector<double>& effective = split.report.effective_classes;
  if (effective.empty()) return text;
  const auto [least, largest] = std::minmax_element(effective.begin(), effective.end());
  return text + fmt::format("; effective classes {:.2f} to {:.2f}, total variation from iid {:.3f}", *least,
                            *largest, split.report.mean_total_variation);
}

nlohmann::ordered_json partition_to_json(const ClientSplit& split) {
  nlohmann::ordered_json json = {{"sizes", split.sizes}};
  if (split.report.counts.empty()) return json;
  json["labels"] = split.labels;
  json["counts"] = split.report.counts;
  json["effective_classes"] = split.report.effective_classes;
  json["mean_total_variation"] = split.report.mean_total_variation;
  return json;
}

}  // namespace msplora
