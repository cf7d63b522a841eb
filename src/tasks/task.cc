#include "msplora/tasks/task.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "tasks/list.h"

namespace msplora {

Batch Task::collate(const Examples& examples, std::span<const uint32_t> indices, uint64_t epoch) const {
  std::vector<TokenizedExample> taken;
  taken.reserve(indices.size());
  for (const uint32_t index : indices) taken.push_back(examples.get(index));
  Batch batch = pack(taken, indices);
  label(taken, epoch, batch);
  return batch;
}

int64_t Task::count_targets(const Examples& examples) const {
  return static_cast<int64_t>(examples.size);
}

void Task::describe(ModelConfig&) const {}

const std::vector<TaskKind>& task_kinds() {
#define MSPLORA_TASK_ROW(name) name##_task(),
  static const std::vector<TaskKind> kinds = {MSPLORA_TASKS(MSPLORA_TASK_ROW)};
#undef MSPLORA_TASK_ROW
  return kinds;
}

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const TaskKind& kind : task_kinds()) names.push_back(kind.name);
  return names;
}

const TaskKind& task_kind(std::string_view name) {
  for (const TaskKind& kind : task_kinds()) {
    if (kind.name == name) return kind;
  }
  throw Error(ErrorCode::kConfig, "task.type",
              fmt::format("expected one of {}, found `{}`", fmt::join(task_names(), ", "), name),
              did_you_mean(name, task_names()));
}

std::unique_ptr<Task> make_task(std::string_view name, TaskSettings settings) {
  std::unique_ptr<Task> task = task_kind(name).make(std::move(settings));
  MetricSet::create(task->metrics(), task->num_outputs());  // complains now, not after an epoch
  return task;
}

}  // namespace msplora
