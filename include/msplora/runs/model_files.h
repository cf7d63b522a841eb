#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/models/model.h"
#include "msplora/templates/chat_template.h"
#include "msplora/tokenizers/tokenizer.h"
#include "msplora/train/recipe.h"

namespace msplora {

/// Of float32, bfloat16, float16 and their usual other names. Throws Error{kUsage} with the nearest.
at::ScalarType parse_dtype(const std::string& name);

/// The type that most values of a model are stored in; quantised ones count as float32.
at::ScalarType stored_dtype(const std::filesystem::path& path);

/// Head counts of the model, which some methods plan with.
AttentionHeads attention_heads(const ModelConfig& config);
/// What adapters are read for where the shapes of a model called `name` are all there is.
AdapterTarget target_of_config(const ModelConfig& config, ModelTask task, const std::string& name);

/// The longest sequence that the model takes, in tokens; and `wanted` (0: the longest) within that.
int64_t longest_sequence(const ModelConfig& config);
int64_t effective_max_length(int64_t wanted, const ModelConfig& config);

/// config.json of a model that can be run. Throws Error{kModel} with the nearest name for another model_type.
ModelConfig load_supported_config(const std::filesystem::path& directory);

/// The names of the base's classes by config.json, in their order; empty where it has placeholders (LABEL_0)
/// or none.
std::vector<std::string> class_names(const ModelConfig& config);

/// Reads the tokenizer of a model directory. Throws Error{kModel} when it has ids that the model has no rows
/// for.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& directory,
                                                const ModelConfig& config);
/// How conversations are written: what the options name, else the model's own template; null where it has
/// none. Throws Error{kUsage} with the nearest for a name that is not known.
std::shared_ptr<const ChatTemplate> chat_template_of(const ChatDataOptions& options,
                                                     const std::filesystem::path& model);
/// A chat template by its name, or in a file; `special_tokens` are the model's.
ChatTemplate named_chat_template(const std::string& name_or_file,
                                 std::map<std::string, std::string> special_tokens);

/// Copies the tokenizer's files of a model directory, as they are; of a GGUF file writes those that say the
/// same.
void copy_tokenizer_files(const std::filesystem::path& from, const std::filesystem::path& to);

/// What a recipe's model is loaded with, for a task's head.
ModelLoadOptions load_options(const ModelOptions& model, const TrainOptions& train, ModelTask head,
                              int64_t num_labels);
/// A model directory, or with random_init only its shape.
std::unique_ptr<Model> open_model(const ModelOptions& model, const ModelConfig& config,
                                  const ModelLoadOptions& options, ModelLoadReport* report);

}  // namespace msplora
