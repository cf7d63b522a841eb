#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {

/// How the rotary angles of a decoder are stretched beyond the context it was first trained on: Hugging
/// Face's rope_scaling (rope_parameters in newer files). `linear` divides all frequencies by `factor`;
/// `llama3` divides low frequencies and blends towards high ones.
struct RopeScaling {
  std::string rope_type = "default";  // default, linear, llama3
  double factor = 1.0;
  double low_freq_factor = 1.0;   // of llama3, as the next two
  double high_freq_factor = 4.0;  // above low_freq_factor
  int64_t original_max_position_embeddings = 8192;
};

/// config.json of a Hugging Face model, typed. Names are Hugging Face's (BERT's and Llama's where others
/// differ: GPT-2's n_embd is hidden_size, resid_pdrop is hidden_dropout_prob); fields an architecture lacks
/// keep the default.
struct ModelConfig {
  std::string model_type;
  std::vector<std::string> architectures;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // = num_attention_heads without grouped-query attention
  int64_t head_dim = 0;             // = hidden_size / num_attention_heads unless given
  int64_t intermediate_size = 0;
  int64_t max_position_embeddings = 0;
  int64_t type_vocab_size = 0;
  std::optional<int64_t> pad_token_id;  // unset also for the -1 of older files
  double layer_norm_eps = 1e-12;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  /// Of each layer: tokens that attention looks back over, the token itself included; 0: all. Empty: no layer
  /// slides. What sliding_window, use_sliding_window, max_window_layers and layer_types say together.
  std::vector<int64_t> windows;
  bool attention_bias = false;  // biases of q_proj, k_proj, v_proj and o_proj (Llama, Qwen3)
  bool mlp_bias = false;        // and of the feed-forward part (Llama)
  std::string hidden_act = "gelu";
  double hidden_dropout_prob = 0.0;
  double attention_probs_dropout_prob = 0.0;
  std::optional<double> classifier_dropout;  // unset: hidden_dropout_prob
  double initializer_range = 0.02;
  bool tie_word_embeddings = true;
  std::string torch_dtype = "float32";

  int64_t num_labels = 2;
  std::map<int64_t, std::string> id2label;  // ids 0 to num_labels - 1 with different names, or empty
  std::string problem_type;                 // "", "regression", "single_label_classification"
  /// Contradictions among id2label, label2id, num_labels and problem_type, which only matter to who uses the
  /// file's own head; the names and the problem type are then unset.
  std::vector<Error> label_problems;

  /// The window of a layer; 0: none.
  int64_t window(int64_t layer) const { return windows.empty() ? 0 : windows.at(static_cast<size_t>(layer)); }

  /// The file as read; keys we do not know are written back unchanged.
  nlohmann::json raw = nlohmann::json::object();
};

/// Reads and checks `directory`/config.json. Throws Error{kIo} when missing, Error{kFormat} when not JSON,
/// Error{kConfig} listing every wrong or missing key, and variants of the known model types that would
/// compute something else (relative positions of BERT, decoders made of encoders, quantised or pruned
/// checkpoints). Known: bert, roberta, xlm-roberta, deberta-v2, llama, mistral, qwen2, qwen3, gpt2. Of any
/// other `model_type` only model_type, architectures and raw are set.
ModelConfig load_model_config(const std::filesystem::path& directory);
ModelConfig parse_model_config(const nlohmann::json& json, const std::string& where);

/// Throws Error{kConfig} with all label_problems when there are any; `where` names the file.
void require_labels(const ModelConfig& config, const std::string& where);

/// `raw` updated with the typed fields (labels, problem_type, architectures, ...), ready to be written. Keys
/// that the file left to their default stay absent; without a file (empty `raw`) every key of the model type
/// is written. Throws Error{kUsage} when id2label and num_labels disagree.
nlohmann::json model_config_to_json(const ModelConfig& config);

/// Shapes of well-known public models by name ("roberta-base", "llama-2-7b", ...), for `inspect --shape`;
/// upper and lower case are the same, and an owner in front ("FacebookAI/roberta-base") is ignored. Throws
/// Error{kUsage} with the nearest name when unknown.
ModelConfig known_model_shape(const std::string& name);
std::vector<std::string> known_model_shapes();

}  // namespace msplora
