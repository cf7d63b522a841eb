#include "msplora/tasks/facts.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/strict_json.h"
#include "msplora/core/file.h"
#include "msplora/core/option_io.h"
#include "msplora/tasks/task.h"

namespace msplora {
namespace {

constexpr const char* kFile = "task.json";

}  // namespace

void save_task_facts(const TaskFacts& facts, const std::filesystem::path& directory) {
  nlohmann::ordered_json id2label = nlohmann::ordered_json::object();
  for (size_t i = 0; i < facts.labels.size(); ++i) id2label[std::to_string(i)] = facts.labels[i];
  nlohmann::ordered_json json = {{"type", facts.type},
                                 {"id2label", id2label},
                                 {"max_length", facts.max_length},
                                 {"base_model", facts.base_model},
                                 {"header", facts.data.header},
                                 {"text", facts.data.text},
                                 {"text_pair", nullptr},
                                 {"label", facts.data.label},
                                 {"glue_task", nullptr}};
  if (facts.data.delimiter != "auto") json["delimiter"] = facts.data.delimiter;
  if (!facts.data.labels.empty()) json["labels"] = facts.data.labels;
  if (facts.data.text_pair) json["text_pair"] = *facts.data.text_pair;
  if (task_kind(facts.type).labels == LabelKind::kConversation) json["chat"] = to_json(facts.data.chat);
  if (facts.data.glue_task) json["glue_task"] = *facts.data.glue_task;
  write_file_atomically(directory / kFile, json.dump(2) + "\n");
}

std::optional<TaskFacts> load_task_facts(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kFile;
  std::error_code code;
  if (!std::filesystem::exists(path, code)) return std::nullopt;
  constexpr char kHint[] = "delete it, or copy it again from the run";
  try {
    const nlohmann::json json = detail::parse_strict_json(read_file(path), path.string(), 64, kHint);
    TaskFacts facts;
    facts.type = json.at("type").get<std::string>();
    const nlohmann::json& id2label = json.at("id2label");
    for (size_t i = 0; i < id2label.size(); ++i) {
      facts.labels.push_back(id2label.at(std::to_string(i)).get<std::string>());
    }
    facts.max_length = json.at("max_length").get<int64_t>();
    facts.base_model = json.at("base_model").get<std::string>();
    facts.data.header = json.at("header").get<std::string>();
    facts.data.text = json.at("text").get<std::string>();
    if (!json.at("text_pair").is_null()) facts.data.text_pair = json["text_pair"].get<std::string>();
    facts.data.label = json.at("label").get<std::string>();
    facts.data.delimiter = json.value("delimiter", facts.data.delimiter);
    if (json.contains("labels")) facts.data.labels = json["labels"].get<std::vector<std::string>>();
    if (!json.at("glue_task").is_null()) facts.data.glue_task = json["glue_task"].get<std::string>();
    ErrorList errors;
    if (json.contains("chat")) read_json(facts.data.chat, json["chat"], path.string() + ": chat", errors);
    errors.throw_if_any(ErrorCode::kFormat, path.string());
    return facts;
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorCode::kFormat, path.string(), "a key is missing or holds another type than runs write",
                kHint);
  }
}

std::optional<TaskFacts> facts_of_language_model(const std::string& peft_type) {
  for (const TaskKind& kind : task_kinds()) {
    if (kind.labels != LabelKind::kNone || peft_type.empty() || kind.peft_type != peft_type) continue;
    TaskFacts facts;
    facts.type = kind.name;
    return facts;
  }
  return std::nullopt;
}

}  // namespace msplora
