#include "msplora/federated/report.h"

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json error_to_json(const AggregationError& error) {
  return {{"error", number(error.error)},
          {"cosine", number(error.cosine)},
          {"norm", number(error.norm)},
          {"correction", number(error.correction)}};
}

Json evaluation_to_json(const Evaluation& evaluation) {
  Json json = Json::object();
  for (const auto& [name, value] : evaluation.metrics) json[name] = number(value);
  json["examples"] = evaluation.examples;
  return json;
}

Json aggregation_to_json(const RoundReport& report) {
  Json json = error_to_json(report.aggregation);
  Json layers = Json::array();
  for (const AggregationError& layer : report.layers) {
    Json entry = {{"name", layer.name}};
    entry.update(error_to_json(layer));
    layers.push_back(std::move(entry));
  }
  json["layers"] = std::move(layers);
  return json;
}

}  // namespace

ClientScores summarize_scores(std::string metric, std::vector<double> values) {
  ClientScores scores;
  const bool small = smaller_is_better(metric);
  scores.metric = std::move(metric);
  scores.values = std::move(values);
  double sum = 0.0, squares = 0.0;
  int64_t count = 0;
  for (size_t k = 0; k < scores.values.size(); ++k) {
    const double value = scores.values[k];
    if (!std::isfinite(value)) continue;
    ++count;
    sum += value;
    if (scores.worst_client >= 0 && (small ? value <= scores.worst : value >= scores.worst)) continue;
    scores.worst = value;
    scores.worst_client = static_cast<int64_t>(k);
  }
  if (count == 0) {
    scores.mean = scores.worst = scores.spread = std::nan("");
    return scores;
  }
  scores.mean = sum / static_cast<double>(count);
  for (const double value : scores.values) {
    if (std::isfinite(value)) squares += (value - scores.mean) * (value - scores.mean);
  }
  scores.spread = std::sqrt(squares / static_cast<double>(count));
  return scores;
}

Json to_json(const Traffic& traffic) {
  return {{"messages", traffic.messages}, {"payload", traffic.payload()}, {"adapter", traffic.adapter},
          {"others", traffic.others},     {"framing", traffic.framing},   {"total", traffic.total()}};
}

Json to_json(const ClientScores& scores) {
  Json values = Json::array();
  for (const double value : scores.values) values.push_back(number(value));
  return {{"metric", scores.metric},         {"mean", number(scores.mean)},
          {"worst", number(scores.worst)},   {"worst_client", scores.worst_client},
          {"spread", number(scores.spread)}, {"values", std::move(values)}};
}

Json to_json(const RoundReport& report) {
  Json rejected = Json::array();
  for (const Rejection& entry : report.rejected) {
    rejected.push_back({{"client", entry.client}, {"reason", entry.reason}});
  }
  Json per_client = Json::array();
  for (const ClientTraffic& entry : report.traffic) {
    per_client.push_back(
        {{"client", entry.client}, {"down", to_json(entry.down)}, {"up", to_json(entry.up)}});
  }
  Json json = {{"round", report.round},
               {"clients", report.clients},
               {"weights", report.weights},
               {"rejected", rejected},
               {"skipped", report.skipped},
               {"train_loss", number(report.train_loss)},
               {"aggregation", report.skipped ? Json() : aggregation_to_json(report)}};
  json["bytes"] = {{"down", to_json(report.down)},
                   {"up", to_json(report.up)},
                   {"cumulative_down", to_json(report.total_down)},
                   {"cumulative_up", to_json(report.total_up)},
                   {"clients", std::move(per_client)}};
  json["evaluation"] = report.global ? evaluation_to_json(*report.global) : Json();
  json["client_scores"] = report.client_scores ? to_json(*report.client_scores) : Json();
  json["tokens"] = report.tokens;
  json["seconds"] = {{"train", report.train_seconds},
                     {"aggregation", report.aggregation_seconds},
                     {"evaluation", report.evaluation_seconds},
                     {"total", report.seconds}};
  return json;
}

}  // namespace msplora
