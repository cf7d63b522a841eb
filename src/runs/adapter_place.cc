#include "msplora/runs/adapter_place.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>

#include "msplora/adapters/files.h"
#include "msplora/core/error.h"
#include "msplora/core/paths.h"
#include "msplora/runs/run_directory.h"
#include "msplora/tasks/facts.h"

namespace msplora {
namespace fs = std::filesystem;

AdapterPlace find_adapter(const fs::path& given) {
  if (adapter_form(given) != AdapterForm::kNone) {
    fs::path path = absolute_path(given).lexically_normal();
    if (path.filename().empty()) path = path.parent_path();
    const bool is_of_run = path.filename() == kPeftDirectory || path.filename() == kNativeDirectory;
    if (is_of_run && path_exists(path.parent_path() / kRecipeFile)) return {given, path.parent_path()};
    return {given, {}};
  }
  for (const char* name : {kNativeDirectory, kPeftDirectory}) {
    if (adapter_form(given / name) != AdapterForm::kNone) return {given / name, given};
  }
  return {given, {}};
}

fs::path base_of_adapter(const fs::path& adapter) {
  fs::path base = load_adapter_facts(adapter).base_name;
  if (base.empty()) {
    const std::optional<TaskFacts> task = load_task_facts(adapter);
    if (task) base = task->base_model;
  }
  if (base.empty()) {
    throw Error(ErrorCode::kUsage, adapter.string(), "does not say which model it was trained on",
                "name the model with --model");
  }
  std::error_code ignored;
  if (!fs::exists(base, ignored)) {
    throw Error(ErrorCode::kUsage, adapter.string(),
                fmt::format("was trained on {}, which is not there", base.string()),
                "say with --model where that model lies");
  }
  return base;
}

}  // namespace msplora
