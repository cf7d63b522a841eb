#include "recipe_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "task_facts.h"

namespace msplora {

void add_recipe_arguments(CLI::App& command, RecipeArguments& arguments, bool writes) {
  command.add_option("recipe", arguments.file, "Recipe (YAML; docs/config.md lists the keys)")
      ->required()
      ->type_name("RECIPE.yaml");
  command
      .add_option(
          "--set", arguments.overrides,
          "Replace one value, e.g. --set train.lr=3e-4 --set adapter.target_modules=[query]; repeatable")
      ->type_name("KEY=VALUE")
      ->take_all()
      ->expected(1)
      ->allow_extra_args(false);
  command.add_option("--labels", arguments.labels, "data.labels: class names in the order of their numbers")
      ->type_name("NAME,NAME,...");
  if (writes)
    command.add_flag("--overwrite", arguments.overwrite, "Write into a run directory that is not empty");
}

void take_task(const std::filesystem::path& adapter, TaskOptions& task, DataConfig& data) {
  const std::optional<TaskFacts> facts = load_task_facts(adapter);
  if (!facts) return;
  task.type = facts->type;
  data.labels = facts->labels;
}

bool start_brings_head(const AdapterConfig& adapter) {
  return !adapter.init_from.empty() && load_adapter_facts(adapter.init_from).head_outputs > 0;
}

void check_start(const Recipe& wanted, const Recipe& own, ErrorList& errors) {
  const std::string& adapter = own.adapter.init_from;
  check_settings(wanted.adapter, own.adapter, errors);
  if (wanted.task.type != own.task.type) {
    errors.add("task.type", fmt::format("`{}`, but the adapter in {} was trained for {}", wanted.task.type,
                                        adapter, own.task.type));
  }
  if (!own.data.labels.empty() && wanted.data.labels != own.data.labels) {
    errors.add("data.labels",
               fmt::format("the classes of the adapter in {} are {}, in this order", adapter,
                           fmt::join(own.data.labels, ", ")),
               "leave it out");
  }
  std::error_code code;
  const auto place = [&](const std::filesystem::path& path) {
    return (std::filesystem::weakly_canonical(path, code) / "").lexically_normal().generic_string();
  };
  if (!wanted.output.dir.empty() && place(adapter).rfind(place(wanted.output.dir), 0) == 0) {
    errors.add("adapter.init_from", fmt::format("{} lies in output.dir, which the run writes to", adapter),
               "choose another output.dir");
  }
}

RunDirectory::RunDirectory(std::filesystem::path path, bool overwrite, bool resume)
    : path_(std::move(path)), existed_(std::filesystem::exists(path_)) {
  try {
    prepare_output_directory(path_, overwrite || resume);
  } catch (const Error& error) {
    // As `validate` says it: the recipe names a place that it cannot have.
    if (!existed_) throw;
    if (error.message().find("not empty") == std::string::npos)
      throw Error(ErrorCode::kConfig, error.where(), error.message(), error.hint());
    throw Error(
        ErrorCode::kConfig, path_.string(), error.message(),
        "choose another output.dir, or pass --resume to continue that run or --overwrite to replace it");
  }
  lock();
}

void RunDirectory::lock() {
  constexpr int kAttempts = 60;  // of 50 ms: a process that was just killed needs a moment to go
  file_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (int attempt = 0; file_ >= 0 && flock(file_, LOCK_EX | LOCK_NB) != 0; ++attempt) {
    if (errno != EWOULDBLOCK) return;  // a file system without locks
    if (attempt == kAttempts) {
      close(file_);
      throw Error(ErrorCode::kIo, path_.string(), "another process is writing to this run directory",
                  "wait until it has ended, or choose another output.dir");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

RunDirectory::~RunDirectory() {
  if (file_ >= 0) close(file_);
  // Fails, as it should, when the directory is not empty.
  std::error_code ignored;
  if (!existed_) std::filesystem::remove(path_, ignored);
}

}  // namespace msplora
