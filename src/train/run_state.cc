#include "msplora/train/run_state.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {
namespace {

// JSON has no infinities; a metric may be undefined (NaN).
nlohmann::json to_json(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

double from_json(const nlohmann::json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
}

nlohmann::json confusion_to_json(const Evaluation& evaluation) {
  nlohmann::json parts = nlohmann::json::array();
  for (const auto& [name, matrix] : evaluation.confusion) {
    std::vector<int64_t> counts;
    for (int64_t target = 0; target < matrix.classes(); ++target) {
      for (int64_t prediction = 0; prediction < matrix.classes(); ++prediction)
        counts.push_back(matrix.count(target, prediction));
    }
    parts.push_back({{"part", name}, {"classes", matrix.classes()}, {"counts", std::move(counts)}});
  }
  return parts;
}

void confusion_from_json(const nlohmann::json& parts, Evaluation& evaluation) {
  for (const nlohmann::json& part : parts) {
    const auto classes = part.at("classes").get<int64_t>();
    const auto counts = part.at("counts").get<std::vector<int64_t>>();
    ConfusionMatrix matrix(classes);
    for (int64_t i = 0; i < classes * classes; ++i)
      matrix.add(i % classes, i / classes, counts.at(static_cast<size_t>(i)));
    evaluation.confusion.emplace_back(part.at("part").get<std::string>(), std::move(matrix));
  }
}

nlohmann::json evaluation_to_json(const std::optional<Evaluation>& evaluation) {
  if (!evaluation) return nullptr;
  nlohmann::json metrics = nlohmann::json::array();  // an array keeps the order, and so the first metric
  for (const auto& [name, value] : evaluation->metrics) metrics.push_back({name, to_json(value)});
  return {{"metrics", metrics},
          {"examples", evaluation->examples},
          {"tokens", evaluation->tokens},
          {"seconds", evaluation->seconds},
          {"confusion", confusion_to_json(*evaluation)},
          {"note", evaluation->note}};
}

std::optional<Evaluation> evaluation_from_json(const nlohmann::json& json) {
  if (json.is_null()) return std::nullopt;
  Evaluation evaluation;
  for (const auto& metric : json.at("metrics")) {
    evaluation.metrics.emplace_back(metric.at(0).get<std::string>(), from_json(metric.at(1)));
  }
  json.at("examples").get_to(evaluation.examples);
  json.at("tokens").get_to(evaluation.tokens);
  json.at("seconds").get_to(evaluation.seconds);
  evaluation.note = json.value("note", std::string());
  // States of earlier builds have none.
  if (json.contains("confusion")) confusion_from_json(json.at("confusion"), evaluation);
  return evaluation;
}

}  // namespace

nlohmann::json run_state_to_json(const RunState& state) {
  return {{"step", state.step},
          {"epoch", state.epoch},
          {"batch", state.batch},
          {"tokens", state.tokens},
          {"examples", state.examples},
          {"train_seconds", state.train_seconds},
          {"total_seconds", state.total_seconds},
          {"cpu_seconds", state.cpu_seconds},
          {"window",
           {{"loss", state.window.loss},
            {"steps", state.window.steps},
            {"tokens", state.window.tokens},
            {"seconds", state.window.seconds}}},
          {"first_loss", state.first_loss ? nlohmann::json(*state.first_loss) : nlohmann::json()},
          {"last_loss", state.last_loss},
          {"last_evaluation_step", state.last_evaluation_step},
          {"last_evaluation", evaluation_to_json(state.last_evaluation)},
          {"best_evaluation", evaluation_to_json(state.best_evaluation)},
          {"best_step", state.best_step},
          {"evaluations_without_gain", state.evaluations_without_gain},
          {"stopped_early", state.stopped_early},
          {"search", state.search}};
}

RunState run_state_from_json(const nlohmann::json& json, const std::string& where) {
  RunState state;
  try {
    json.at("step").get_to(state.step);
    json.at("epoch").get_to(state.epoch);
    json.at("batch").get_to(state.batch);
    json.at("tokens").get_to(state.tokens);
    json.at("examples").get_to(state.examples);
    json.at("train_seconds").get_to(state.train_seconds);
    json.at("total_seconds").get_to(state.total_seconds);
    state.cpu_seconds = json.value("cpu_seconds", 0.0);  // states of earlier builds have none
    json.at("window").at("loss").get_to(state.window.loss);
    json.at("window").at("steps").get_to(state.window.steps);
    json.at("window").at("tokens").get_to(state.window.tokens);
    json.at("window").at("seconds").get_to(state.window.seconds);
    if (json.contains("first_loss") && !json.at("first_loss").is_null())
      state.first_loss = json.at("first_loss").get<double>();
    json.at("last_loss").get_to(state.last_loss);
    json.at("last_evaluation_step").get_to(state.last_evaluation_step);
    state.last_evaluation = evaluation_from_json(json.at("last_evaluation"));
    state.best_evaluation = evaluation_from_json(json.at("best_evaluation"));
    json.at("best_step").get_to(state.best_step);
    json.at("evaluations_without_gain").get_to(state.evaluations_without_gain);
    json.at("stopped_early").get_to(state.stopped_early);
    state.search = json.value("search", nlohmann::json());
  } catch (const nlohmann::json::exception& problem) {
    throw Error(ErrorCode::kFormat, where, std::string("not the state of a run: ") + problem.what());
  }
  return state;
}

}  // namespace msplora
