#include "msplora/runs/run_data.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/runs/model_files.h"

namespace msplora {
namespace {

EncodedPart encode_part(const std::string& name, Dataset data, const Task& task, int threads) {
  EncodedPart part;
  part.name = name;
  EncodedDataset encoded = task.encode(data, threads);
  part.data = encoded.rows.empty() ? std::move(data) : data.subset(encoded.rows);
  part.examples = std::move(encoded.examples);
  part.summary = encoded.summary;
  return part;
}

/// Those of config.json belong to the base's own head: only their order is taken, and only where the data has
/// the very same names, so that the head goes on fitting them.
LabelMap choose_labels(const DataConfig& data, const TaskData& read, const ModelConfig& config) {
  if (!data.labels.empty()) return LabelMap::from_list(data.labels).with_numbers(data.labels, "data.labels");
  if (!read.labels.empty()) return LabelMap::from_list(read.labels);
  const LabelMap found =
      LabelMap::from_counts(data.train ? data.train->text() : "data.train", read.class_counts);
  std::vector<std::string> of_base;
  for (const auto& [index, name] : config.id2label) of_base.push_back(name);
  std::vector<std::string> names = found.names();
  if (std::is_permutation(names.begin(), names.end(), of_base.begin(), of_base.end()))
    return LabelMap::from_list(of_base);
  return found;
}

}  // namespace

std::vector<NamedExamples> named(const std::vector<EncodedPart>& parts) {
  std::vector<NamedExamples> named;
  for (const EncodedPart& part : parts) named.push_back({part.name, part.all()});
  return named;
}

RunData read_run_data(const Recipe& recipe, const ModelConfig& config,
                      const std::shared_ptr<const Tokenizer>& tokenizer) {
  RunData run;
  run.kind = &task_kind(recipe.task.type);
  const auto seed = static_cast<uint64_t>(recipe.train.seed);
  const TaskParts parts{true, true, recipe.data.test.has_value()};
  DataConfig columns = recipe.data;
  std::shared_ptr<const ChatTemplate> chat_template;
  if (run.kind->labels == LabelKind::kConversation) {
    chat_template = chat_template_of(recipe.data.chat, recipe.model.path);
    if (chat_template == nullptr) columns.chat.chat_template = "alpaca";  // its words for rows of Alpaca
  }
  TaskData read = load_task_data(columns, run.kind->labels, seed, parts);
  if (run.kind->labels == LabelKind::kClass) run.labels = choose_labels(recipe.data, read, config);
  run.notes = read.notes;
  run.max_length = effective_max_length(recipe.data.max_length, config);
  run.is_shortened = run.max_length < recipe.data.max_length;
  TaskSettings settings;
  settings.labels = run.labels;
  settings.tokenizer = tokenizer;
  settings.max_length = run.max_length;
  settings.metrics = read.metrics;
  settings.mask.seed = seed;
  settings.chat = recipe.data.chat;
  settings.chat_template = std::move(chat_template);
  run.task = make_task(run.kind->name, std::move(settings));
  const int threads = static_cast<int>(recipe.train.threads);
  run.train = encode_part("train", std::move(read.train), *run.task, threads);
  for (auto& part : read.validation)
    run.validation.push_back(encode_part(part.name, std::move(part.data), *run.task, threads));
  for (auto& part : read.test)
    run.test.push_back(encode_part(part.name, std::move(part.data), *run.task, threads));
  return run;
}

TaskFacts facts_of(const Recipe& recipe, const RunData& data) {
  TaskFacts facts;
  facts.type = recipe.task.type;
  if (data.labels) facts.labels = data.labels->names();
  facts.max_length = data.max_length;
  facts.base_model = recipe.model.path;
  facts.data = recipe.data;
  return facts;
}

}  // namespace msplora
