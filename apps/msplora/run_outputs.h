#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "msplora/adapters/adapter.h"
#include "msplora/train/events.h"
#include "session.h"
#include "task_facts.h"

namespace msplora {

/// What is written beside an adapter of this run.
TaskFacts facts_of(const Recipe& recipe, const PreparedData& data);

/// Writes the adapter in the forms that output.save_peft and output.save_native ask for; the directories by
/// form.
nlohmann::ordered_json save_adapters(const Adapter& adapter, const Recipe& recipe, const TaskFacts& facts);

/// The metrics of the labelled test parts, with the weights as they are; per class under `classes`.test.
nlohmann::ordered_json evaluate_test(Model& model, const PreparedData& data, const Recipe& recipe,
                                     nlohmann::ordered_json& classes);

/// A new run in a directory that is overwritten must not end beside the results of the old one: adapters,
/// model, metrics.json and TensorBoard files. The other files of a run are replaced by those who write them.
void remove_earlier_results(const std::filesystem::path& directory);

/// Writes recipe.yaml once the run has begun, so that one that is refused leaves nothing and changes nothing;
/// unless it resumes, it removes the earlier results. The first sink of a run.
std::unique_ptr<EventSink> make_recipe_sink(std::filesystem::path directory, std::string recipe);

/// Where the results are, one line each.
std::string closing_lines(const nlohmann::ordered_json& summary, const std::string& directory);

}  // namespace msplora
