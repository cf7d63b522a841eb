#include "msplora/runs/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/log.h"
#include "msplora/core/option_io.h"
#include "msplora/core/paths.h"
#include "msplora/federated/report.h"
#include "msplora/runs/compare.h"
#include "msplora/train/checkpoint.h"
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

/// Checkpoints, TensorBoard's files, and the states of a federation's server.
bool is_numbered_result(const std::string& name) {
  for (const char* beginning : {kCheckpointPrefix, kTensorBoardPrefix, kServerStatePrefix}) {
    if (name.starts_with(beginning)) return true;
  }
  return false;
}

}  // namespace

const std::vector<std::string>& run_file_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all = {kRecipeFile,    kReportFile,      kLogFile,
                                    kTestPairsFile, kSamplesFile,     kRoundsFile,
                                    kPeftDirectory, kNativeDirectory, kModelDirectory};
    all.insert(all.end(), std::begin(comparison_files::kAll), std::end(comparison_files::kAll));
    return all;
  }();
  return names;
}

bool is_recipe_of_run(const fs::path& file) {
  try {
    const OptionNode recipe = parse_option_yaml(read_file(file), file.string());
    const OptionNode* const output = recipe.find("output");
    if (output == nullptr) return false;
    const nlohmann::json options = to_json(OutputOptions{});
    return std::all_of(options.items().begin(), options.items().end(),
                       [&](const auto& option) { return output->find(option.key()) != nullptr; });
  } catch (const Error&) {
    return false;
  }
}

std::vector<std::string> foreign_results(const fs::path& directory) {
  std::vector<std::string> found;
  if (is_recipe_of_run(directory / kRecipeFile)) return found;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, code)) {
    const std::string name = entry.path().filename().string();
    const auto& names = run_file_names();
    if (std::find(names.begin(), names.end(), name) != names.end() || is_numbered_result(name))
      found.push_back(name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string foreign_results_problem(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  const auto end = names.begin() + static_cast<std::ptrdiff_t>(std::min(names.size(), kShown));
  return fmt::format(
      "no run wrote this directory (recipe.yaml of a run is missing), and a run would replace {}{}",
      fmt::join(names.begin(), end, ", "),
      names.size() > kShown ? fmt::format(" and {} more", names.size() - kShown) : "");
}

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
  const std::vector<std::string> foreign = foreign_results(path_);
  if (!foreign.empty())
    throw Error(ErrorCode::kConfig, path_.string(), foreign_results_problem(foreign), kForeignResultsHint);
  if (resume && !path_exists(recipe())) {
    log_warning(fmt::format("--resume: there is no run in {}; a new one begins", path_.string()));
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
  return path_ / (form == "peft" ? kPeftDirectory : kNativeDirectory);
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
