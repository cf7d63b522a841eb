#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/models/architecture.h"

namespace msplora {

/// config.json of a Hugging Face model: the file as read, which stays the truth about the model's shape, and
/// what fine-tuning may change. describe() makes an Architecture of it.
struct ModelConfig {
  std::string where = "config.json";  // the file, for messages
  std::string model_type;
  std::vector<std::string> architectures;
  std::string torch_dtype = "float32";
  std::optional<int64_t> pad_token_id;  // unset also for the -1 of older files

  int64_t num_labels = 2;
  std::map<int64_t, std::string> id2label;  // ids 0 to num_labels - 1 with different names, or empty
  std::string problem_type;                 // "", "regression", "single_label_classification"
  /// Contradictions among id2label, label2id, num_labels and problem_type, which only matter to who uses the
  /// file's own head; the names and the problem type are then unset.
  std::vector<Error> label_problems;

  nlohmann::json raw = nlohmann::json::object();
};

/// Reads and checks `directory`/config.json, or the settings of a GGUF file (models/gguf.h). Throws
/// Error{kIo} when missing, Error{kFormat} when not JSON, Error{kConfig} listing every wrong or missing key,
/// and variants of the known model types that would compute something else (relative positions of BERT,
/// decoders made of encoders, quantised or pruned checkpoints). Of a `model_type` that no family knows only
/// model_type, architectures and raw are set.
ModelConfig load_model_config(const std::filesystem::path& directory);
ModelConfig parse_model_config(const nlohmann::json& json, const std::string& where);

/// Throws Error{kConfig} with all label_problems when there are any.
void require_labels(const ModelConfig& config);

/// `raw` with labels, problem_type, architectures, pad token and dtype as they are now, ready to be written.
/// Keys that the file left to their default stay absent. Throws Error{kUsage} when id2label and num_labels
/// disagree.
nlohmann::json model_config_to_json(const ModelConfig& config);

/// The model with the head of a task, or without one. `dropout` takes the place of every probability of
/// config.json. Throws Error{kModel} when the model type is unknown or has no such head.
Architecture describe(const ModelConfig& config, ModelTask task = ModelTask::kNone,
                      std::optional<double> dropout = std::nullopt);

/// Model types whose models can be run.
std::vector<std::string> supported_model_types();
/// Throws Error{kModel} with the nearest name when models of this type cannot be run.
void require_supported(const ModelConfig& config);
/// Whether the models of this type have a head for the task.
bool supports_task(const std::string& model_type, ModelTask task);
/// Whether the file's own head is that of a causal language model, which can be run.
bool is_language_model(const ModelConfig& config);

/// The linear layers that adapters of this family change unless told otherwise (queries and values, as in the
/// LoRA paper; GPT-2 has them in one), as path suffixes. Empty for unknown types.
std::vector<std::string> default_target_modules(const std::string& model_type);

/// Shapes of well-known public models by name ("roberta-base", "llama-2-7b", ...), for `inspect --shape`;
/// upper and lower case are the same, and an owner in front ("FacebookAI/roberta-base") is ignored. Throws
/// Error{kUsage} with the nearest name when unknown.
ModelConfig known_model_shape(const std::string& name);
std::vector<std::string> known_model_shapes();

}  // namespace msplora
