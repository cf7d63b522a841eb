#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "msplora/data/options.h"

namespace msplora {

/// What an adapter needs to be used again and no adapter format has a place for: names of the classes and how
/// text was read. Written as task.json beside the adapter.
struct TaskFacts {
  std::string type = "classification";
  std::vector<std::string> labels;  // by class index; empty without classes
  int64_t max_length = 0;           // 0: what the model takes
  std::string base_model;           // path as given in training
  DataConfig data;                  // columns, form, header and numbers of labels; no file names
};

void save_task_facts(const TaskFacts& facts, const std::filesystem::path& directory);

/// std::nullopt when the directory has none (an adapter made elsewhere). Throws Error{kFormat} when it is
/// damaged.
std::optional<TaskFacts> load_task_facts(const std::filesystem::path& directory);

/// What an adapter made elsewhere says of its task: PEFT's "CAUSAL_LM" means texts; others do not tell.
std::optional<TaskFacts> facts_of_language_model(const std::string& peft_type);

}  // namespace msplora
