#include "recipe_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

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
