#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/federated/federation.h"
#include "session.h"

namespace msplora {

/// The training data of a recipe, dealt to its clients.
struct ClientSplit {
  std::vector<ClientData> clients;
  std::vector<int64_t> sizes;  // of each client, what it set aside included
  std::vector<std::string> labels;
  PartitionReport report;  // empty for regression
};

/// Throws Error{kConfig} when the data cannot be dealt as federated.partition says.
ClientSplit split_clients(const FederateRecipe& recipe, const PreparedData& data);

/// "10, dirichlet 0.3: 412 to 9120 examples; effective classes 1.2 to 2.0, total variation from iid 0.31".
std::string clients_line(const ClientSplit& split, const FederatedOptions& options);

/// Sizes, the table of clients and classes, effective classes, total variation.
nlohmann::ordered_json partition_to_json(const ClientSplit& split);

}  // namespace msplora
