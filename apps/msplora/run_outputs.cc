#include "run_outputs.h"

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include <fmt/format.h>

#include "class_report.h"
#include "msplora/adapters/files.h"
#include "msplora/core/file.h"
#include "msplora/core/log.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/train/tensorboard.h"

namespace msplora {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

TaskFacts facts_of(const Recipe& recipe, const PreparedData& data) {
  TaskFacts facts;
  facts.type = recipe.task.type;
  if (data.labels) facts.labels = data.labels->names();
  facts.max_length = data.max_length;
  facts.base_model = recipe.model.path;
  facts.data = recipe.data;
  return facts;
}

Json save_adapters(const Adapter& adapter, const Recipe& recipe, const TaskFacts& facts) {
  const fs::path directory = recipe.output.dir;
  const std::string refusal = peft_form_refusal(adapter);
  Json saved = Json::object();
  if (recipe.output.save_peft && refusal.empty()) {
    save_peft_adapter(adapter, directory / "adapter");
    save_task_facts(facts, directory / "adapter");
    saved["peft"] = (directory / "adapter").string();
  } else if (recipe.output.save_peft) {
    log_info(fmt::format("no PEFT adapter is written: {}", refusal));
  }
  if (recipe.output.save_native || saved.empty()) {
    save_native_adapter(adapter, directory / "adapter-native");
    save_task_facts(facts, directory / "adapter-native");
    saved["native"] = (directory / "adapter-native").string();
  }
  return saved;
}

Json evaluate_test(Model& model, const PreparedData& data, const Recipe& recipe, Json& classes) {
  Json results = Json::object();
  for (const EncodedPart& part : data.test) {
    if (!part.data.has_labels()) continue;
    const Evaluation evaluation =
        Evaluator(*data.task, model, part.all(), recipe.train.eval_batch_tokens).run();
    log_info(fmt::format("{}: {}", part.name, format_metrics(evaluation)));
    if (!evaluation.note.empty()) log_warning(fmt::format("{}: {}", part.name, evaluation.note));
    if (data.labels) classes[part.name] = class_report(evaluation, data.labels->names());
    for (const auto& [name, value] : evaluation.metrics) {
      results[data.test.size() > 1 ? part.name + "_" + name : name] = value;
    }
  }
  return results;
}

void remove_earlier_results(const fs::path& directory) {
  for (const char* name : {"adapter", "adapter-native", "model", "metrics.json"})
    fs::remove_all(directory / name);
  TensorBoardWriter::remove_earlier(directory);
}

namespace {

class RecipeSink : public EventSink {
 public:
  RecipeSink(fs::path directory, std::string recipe)
      : directory_(std::move(directory)), recipe_(std::move(recipe)) {}
  void on_start(const RunInfo& info) override {
    if (!info.resumed) remove_earlier_results(directory_);
    write_file_atomically(directory_ / "recipe.yaml", recipe_);
  }

 private:
  fs::path directory_;
  std::string recipe_;
};

}  // namespace

std::unique_ptr<EventSink> make_recipe_sink(fs::path directory, std::string recipe) {
  return std::make_unique<RecipeSink>(std::move(directory), std::move(recipe));
}

std::string closing_lines(const Json& summary, const std::string& directory) {
  std::string text;
  for (const auto& [form, path] : summary["adapter"].items()) {
    text += fmt::format("  {:<15} {}\n", form + " adapter", path.get<std::string>());
  }
  return text + fmt::format("  {:<15} {}\n  {:<15} {}\n", "metrics", directory + "/metrics.json", "recipe",
                            directory + "/recipe.yaml");
}

}  // namespace msplora
