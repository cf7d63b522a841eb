#pragma once

#include <CLI/App.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/data/dataset.h"
#include "msplora/data/encode.h"
#include "msplora/data/label_map.h"
#include "msplora/models/model.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/tasks/task.h"
#include "msplora/tokenizers/tokenizer.h"
#include "msplora/train/recipe.h"
#include "program.h"
#include "task_facts.h"

namespace msplora {

at::ScalarType parse_dtype(const std::string& name);

/// The model as an adapter sees it; the fingerprint is taken here, before training.
AdapterTarget adapter_target(Model& model, const std::string& base_name);

/// Head counts of the model, which some methods plan with.
AttentionHeads attention_heads(const ModelConfig& config);

/// The longest sequence that the model takes, in tokens.
int64_t longest_sequence(const ModelConfig& config);

/// config.json of a model that can be run. Throws Error{kModel} with the nearest name for another model_type.
ModelConfig load_supported_config(const std::filesystem::path& directory);

/// Reads the tokenizer of a model directory. Throws Error{kModel} when it has ids that the model has no rows
/// for.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& directory,
                                                const ModelConfig& config);

/// A model directory, or with random_init only its shape.
std::unique_ptr<Model> open_model(const ModelOptions& model, const ModelConfig& config,
                                  const ModelLoadOptions& options, ModelLoadReport* report);
/// The classifier that a recipe trains.
std::unique_ptr<Model> open_classifier(const Recipe& recipe, const ModelConfig& config, int64_t num_labels,
                                       ModelLoadReport* report);

/// One encoded part of the data.
struct EncodedPart {
  std::string name;  // "train", "validation", "test"
  Dataset data;
  std::vector<TokenizedExample> examples;
  EncodeSummary summary;

  /// Its examples, with their places in the file.
  Examples all() const {
    return all_of(examples, [this](size_t i) { return data.where(i); });
  }
};

/// Parts by their names, for evaluation.
std::vector<NamedExamples> named(const std::vector<EncodedPart>& parts);

/// The text of a recipe, read and encoded.
struct PreparedData {
  std::unique_ptr<Task> task;
  std::optional<LabelMap> labels;  // unset where the task has no classes
  int64_t max_length = 0;
  bool is_shortened = false;  // max_length was lowered to what the model takes
  EncodedPart train;
  std::vector<EncodedPart> validation;
  std::vector<EncodedPart> test;
  std::vector<std::string> notes;  // of the data as a whole
};

/// Reads every part that the recipe names and chooses the class names: data.labels, else the task's, else
/// the sorted labels of the whole training file.
PreparedData prepare_data(const Recipe& recipe, const ModelConfig& config,
                          const std::shared_ptr<const Tokenizer>& tokenizer);
/// The choice of class names alone. Those of config.json belong to the base's own head: only their order is
/// taken, and only where the data has the very same names, so that the head goes on fitting them.
LabelMap choose_labels(const DataConfig& data, const TaskData& read, const ModelConfig& config);
int64_t effective_max_length(int64_t wanted, const ModelConfig& config);

/// --model, --adapter, --labels, --dtype of the commands that use a trained model.
struct ModelArguments {
  std::string model;
  std::string adapter;
  std::string labels;
  std::string dtype = "float32";
};
void add_model_arguments(CLI::App& command, ModelArguments& arguments, bool adapter_required);
void add_labels_argument(CLI::App& command, ModelArguments& arguments);

/// A model ready to predict. Members are destroyed in reverse order: the adapter before its model.
struct Session {
  TaskFacts facts;
  std::optional<LabelMap> labels;  // unset where the task has no classes
  std::shared_ptr<const Tokenizer> tokenizer;
  ModelLoadReport report;
  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;  // null without --adapter

  /// The task of the facts, for texts of up to max_length tokens (0: as in training); without metrics those
  /// that the task has.
  std::unique_ptr<Task> task(int64_t max_length = 0, std::vector<std::string> metrics = {}) const;
};

/// Loads model and adapter; class names, columns and lengths come from the task.json beside the adapter
/// (without one, beside the model), class names else, where the base's own head is used, from config.json,
/// else are numbers. --labels names the classes where nothing does, and says what numbers in a file of labels
/// stand for. Throws Error{kModel} when neither brings a trained head, or when task.json belongs to another
/// one.
Session open_session(const ModelArguments& arguments, const CommonOptions& common);

/// Copies the tokenizer's files of a model directory, as they are.
void copy_tokenizer_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace msplora
