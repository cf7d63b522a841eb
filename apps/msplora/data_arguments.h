#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

#include "msplora/data/dataset.h"
#include "msplora/data/options.h"

namespace msplora {

/// Columns and form of data files on the command line; what is not given comes from the adapter's task.json.
struct DataArguments {
  std::vector<std::string> files;
  std::string text, text_pair, label, format, header, delimiter, glue_task;
  int64_t max_length = 0;
  int64_t batch_tokens = 4096;
};

void add_data_arguments(CLI::App& command, DataArguments& arguments, bool with_labels);

/// Says which delimiter was recognised where it is not the usual one of the form.
void say_delimiter(const Dataset& data);

/// `known` with everything that was given replaced.
DataConfig merged_data_config(const DataConfig& known, const DataArguments& arguments);

}  // namespace msplora
