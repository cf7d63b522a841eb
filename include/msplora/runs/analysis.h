#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "msplora/analysis/report.h"

namespace msplora {

struct AnalysisRequest {
  /// Run directories of `train` or `federate` (their native adapter is taken, else PEFT's), or adapters in
  /// any form.
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path base;  // of all of them; "": the one that each of them names, where it is there
  bool uses_base = true;       // whether weights of a base are looked at where the method can do without
  bool checkpoints = false;    // curves over the checkpoints of the runs
  analysis::Options options;
};

/// Analyses adapters one after the other and beside each other. `say` hears what is being read. A base of
/// which config.json alone is there gives shapes; without any, the files of the adapter do where they can.
/// Throws Error{kIo} where there is no adapter, Error{kUsage} where a method's change cannot be read (with
/// the reason), or a run has no checkpoints; and as load_adapter.
analysis::Report analyze_adapters(const AnalysisRequest& request,
                                  const std::function<void(const std::string&)>& say = {});

/// Writes the tables of a report into a directory, which is made where it is missing.
void write_csv_tables(const analysis::Report& report, const std::filesystem::path& directory);

}  // namespace msplora
