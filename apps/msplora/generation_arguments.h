#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "msplora/runs/language_model.h"
#include "program.h"

namespace msplora {

/// A model that writes, as `generate` and `chat` open it, and how it does.
struct GenerationArguments {
  std::string model;
  std::vector<std::string> adapters;  // PATH or NAME=PATH
  bool merge = false;
  std::string dtype = "auto";
  std::string chat_template;  // a name or a file; empty: the model's own
  bool greedy = false, do_sample = false;
  std::map<std::string, std::vector<std::string>> values;  // of options, by their names
};

/// Adds --model, --adapter, --merge, --dtype, --chat-template and an option for each of GenerationOptions.
void add_generation_arguments(CLI::App& command, GenerationArguments& arguments);

/// The adapters by their names. Throws Error{kUsage} where two have one.
std::map<std::string, std::filesystem::path> adapter_paths(const GenerationArguments& arguments);
/// Puts the model that the first adapter names in the place of one that was left out. Throws as
/// model_or_base.
void find_files(GenerationArguments& arguments);

/// Opens the model. Its defaults become those of generation_config.json with what the arguments say.
LanguageModel open_language_model(const GenerationArguments& arguments, const GeneratorOptions& options,
                                  const CommonOptions& common);
/// `options` with what the arguments say. Throws Error{kUsage} listing everything that is wrong.
GenerationOptions with_arguments(GenerationOptions options, const GenerationArguments& arguments);

}  // namespace msplora
