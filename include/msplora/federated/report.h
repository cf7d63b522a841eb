#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/federated/aggregator.h"
#include "msplora/federated/message.h"
#include "msplora/tasks/evaluation.h"

namespace msplora {

/// A client whose update was not used, and why.
struct Rejection {
  int64_t client = 0;
  std::string reason;
};

/// The global model on the examples that each client set aside.
struct ClientScores {
  std::string metric;
  std::vector<double> values;  // by client; NaN where the metric is undefined
  double mean = 0.0;           // over the clients that have a value, as the rest
  double worst = 0.0;
  int64_t worst_client = -1;  // -1: no client has a value
  double spread = 0.0;        // standard deviation
};
ClientScores summarize_scores(std::string metric, std::vector<double> values);

/// Bytes of one client.
struct ClientTraffic {
  int64_t client = 0;
  Traffic down, up;
};

/// What a federation writes: a line a round, and the server's states, NAME-ROUND.safetensors.
inline constexpr char kRoundsFile[] = "rounds.jsonl", kServerStatePrefix[] = "round-";

/// One round, as kRoundsFile records it.
struct RoundReport {
  int64_t round = 0;             // from 1
  std::vector<int64_t> clients;  // whose updates were used
  std::vector<double> weights;   // of these
  std::vector<Rejection> rejected;
  bool skipped = false;     // too few usable updates: the global model is unchanged
  double train_loss = 0.0;  // mean of the clients' last losses, weighted
  std::vector<AggregationError> layers;
  AggregationError aggregation;
  std::vector<ClientTraffic> traffic;  // of every client that was asked
  Traffic down, up;                    // of this round
  Traffic total_down, total_up;        // since the first round
  std::optional<Evaluation> global;
  std::optional<ClientScores> client_scores;
  int64_t tokens = 0;  // trained on in this round
  double train_seconds = 0.0, aggregation_seconds = 0.0, evaluation_seconds = 0.0, seconds = 0.0;
};

/// One JSON object; numbers that are not finite are null.
nlohmann::ordered_json to_json(const RoundReport& report);
nlohmann::ordered_json to_json(const Traffic& traffic);
nlohmann::ordered_json to_json(const ClientScores& scores);

}  // namespace msplora
