// What can be said of output.dir before a run claims it.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "msplora/core/paths.h"
#include "msplora/runs/run.h"
#include "msplora/runs/run_directory.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

/// Whether the directory, or the nearest one above it that is there, can be written to.
void check_writable(const OutputOptions& output, ErrorList& errors) {
  fs::path place = absolute_path(output.dir).lexically_normal();
  if (place.filename().empty()) place = place.parent_path();
  while (!path_exists(place) && place.has_relative_path()) place = place.parent_path();
  const std::string where = "output.dir: " + output.dir;
  if (!directory_exists(place))
    return errors.add(where, fmt::format("cannot be created: {} is a file", place.string()),
                      "choose another output.dir");
  if (access(place.c_str(), W_OK | X_OK) == 0) return;
  errors.add(where, fmt::format("cannot be written: {}: {}", place.string(), std::strerror(errno)),
             "choose another output.dir");
}

}  // namespace

std::string check_output(const OutputOptions& output, ErrorList& errors) {
  std::error_code code;
  const fs::path directory = output.dir;
  if (directory.empty()) return {};
  const std::string where = "output.dir: " + output.dir;
  if (fs::exists(directory, code) && !fs::is_directory(directory, code)) {
    errors.add(where, "expected a directory, found a file");
    return {};
  }
  check_writable(output, errors);
  if (!fs::exists(directory, code)) return {};
  if (!output.overwrite && !fs::is_empty(directory, code)) {
    return fmt::format(
        "note: output.dir {} exists and is not empty: train it with --resume, --overwrite or another "
        "output.dir\n",
        output.dir);
  }
  const std::vector<std::string> foreign = foreign_results(directory);
  if (!foreign.empty()) errors.add(where, foreign_results_problem(foreign), kForeignResultsHint);
  return {};
}

}  // namespace msplora
