#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "msplora/runs/report.h"
#include "msplora/train/events.h"
#include "msplora/train/recipe.h"

namespace msplora {

/// Names in output.dir, beside those in report.h, of a federation (federated/report.h) and of a comparison
/// (compare.h).
inline constexpr char kRecipeFile[] = "recipe.yaml", kLogFile[] = "metrics.jsonl",
                      kSamplesFile[] = "samples.jsonl", kModelDirectory[] = "model",
                      kPeftDirectory[] = "adapter", kNativeDirectory[] = "adapter-native";

/// Whether a run wrote this recipe.yaml: it states every option of its output, as people do not.
bool is_recipe_of_run(const std::filesystem::path& file);
/// The names under which a run writes or removes files in output.dir, those with numbers left out.
const std::vector<std::string>& run_file_names();
/// The names of results in a directory that no run has written (its recipe.yaml is missing or somebody's
/// own), which one that begins there would replace or remove. Empty for the directory of a run.
std::vector<std::string> foreign_results(const std::filesystem::path& directory);
/// What is wrong with them, and what to do.
std::string foreign_results_problem(const std::vector<std::string>& names);
inline constexpr const char* kForeignResultsHint = "choose another output.dir, or move them away first";

/// The directory of a run: it alone decides what is written and removed in output.dir, beside the checkpoints
/// of the trainer and the states of the server.
///
/// Locked while this lives: two processes would spoil each other's checkpoints. Created at once, so that a
/// wrong place is reported before anything is loaded; a run that is refused before it began takes it away
/// again and changes nothing in one that was there.
class RunDirectory {
 public:
  /// Throws Error{kConfig} when the directory exists and is not empty, unless output.overwrite or `resume`,
  /// and even then where it has foreign_results(); Error{kIo} when it cannot be made, or another process
  /// still writes there a few seconds later.
  RunDirectory(const OutputOptions& output, bool resume);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path recipe() const { return path_ / kRecipeFile; }
  std::filesystem::path metrics() const { return path_ / kReportFile; }
  std::filesystem::path test_pairs() const { return path_ / kTestPairsFile; }
  std::filesystem::path samples() const { return path_ / kSamplesFile; }
  std::filesystem::path adapter(const std::string& form) const;  // "peft" or "native"
  std::filesystem::path model() const { return path_ / kModelDirectory; }

  /// The run has begun: writes recipe.yaml, and unless it goes on from what is there, removes the results of
  /// the run before (adapters, model, metrics.json, test.csv, samples.jsonl, TensorBoard files): they must
  /// not stand beside new ones.
  void begin(const std::string& recipe_yaml, bool resumed) const;
  /// begin() when training starts; the first sink of a run.
  std::unique_ptr<EventSink> beginning(std::string recipe_yaml) const;
  /// test.csv where the task has pairs, then metrics.json: where that is, the run is done.
  void write(const RunReport& report) const;

 private:
  void lock();

  std::filesystem::path path_;
  bool existed_;
  int file_ = -1;  // the open directory; it holds the lock
};

}  // namespace msplora
