#pragma once

#include <CLI/App.hpp>
#include <filesystem>
#include <string>

#include "msplora/runs/tuned_model.h"
#include "program.h"

namespace msplora {

/// --model, --adapter, --labels, --dtype of the commands that use a trained model.
struct ModelArguments {
  std::string model;
  std::string adapter;
  std::string labels;
  std::string task;  // of a language model whose files name none
  std::string dtype = "float32";
};
void add_model_arguments(CLI::App& command, ModelArguments& arguments, bool adapter_required,
                         bool with_dtype = true);
/// `model`, or where it is empty the one that `adapter` ("": none) names. Throws Error{kUsage} where neither
/// is given; as base_of_adapter.
std::string model_or_base(const std::string& model, const std::filesystem::path& adapter);
/// Puts in place what was left out: the adapter of a run whose directory was given, and the model that the
/// adapter names. Throws as model_or_base.
void find_files(ModelArguments& arguments);
TunedModel open_tuned(const ModelArguments& arguments, const CommonOptions& common);

}  // namespace msplora
