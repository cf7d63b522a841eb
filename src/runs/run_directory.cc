#include "msplora/runs/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/train/tensorboard.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

class BeginningSink : public EventSink {
 public:
  BeginningSink(const RunDirectory& directory, std::string recipe)
      : directory_(directory), recipe_(std::move(recipe)) {}
  void on_start(const RunInfo& info) override { directory_.begin(recipe_, info.resumed); }

 private:
  const RunDirectory& directory_;
  std::string recipe_;
};

}  // namespace

RunDirectory::RunDirectory(const OutputOptions& output, bool resume)
    : path_(output.dir), existed_(path_exists(path_)) {
  try {
    prepare_output_directory(path_, output.overwrite || resume);
  } catch (const Error& error) {
    // As `validate` says it: the recipe names a place that it cannot have.
    if (!existed_) throw;
    if (!is_filled_directory(path_))
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
  if (!existed_) fs::remove(path_, ignored);
}

fs::path RunDirectory::adapter(const std::string& form) const {
  return path_ / (form == "peft" ? "adapter" : "adapter-" + form);
}

void RunDirectory::begin(const std::string& recipe_yaml, bool resumed) const {
  if (!resumed) {
    for (const fs::path& earlier :
         {adapter("peft"), adapter("native"), model(), metrics(), test_pairs(), samples()})
      remove_path(earlier);
    TensorBoardWriter::remove_earlier(path_);
  }
  write_file_atomically(recipe(), recipe_yaml);
}

std::unique_ptr<EventSink> RunDirectory::beginning(std::string recipe_yaml) const {
  return std::make_unique<BeginningSink>(*this, std::move(recipe_yaml));
}

void RunDirectory::write(const RunReport& report) const {
  if (!report.test_pairs.empty()) write_file_atomically(test_pairs(), test_pairs_csv(report));
  write_file_atomically(metrics(), to_json(report).dump(2) + "\n");
}

}  // namespace msplora
