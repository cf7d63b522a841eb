#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/config_reader.h"
#include "msplora/models/architecture.h"
#include "msplora/models/gguf.h"

namespace msplora {

/// What GGUF files of a family have of their own. The names of tensors follow from the Architecture.
struct GgufFacts {
  std::string architecture;           // general.architecture; "": there are no files
  std::vector<GgufSetting> settings;  // keys of config.json that have a key there
  bool interleaves_heads = false;     // rows of queries and keys, see GgufName
  /// Adds to the keys of config.json what `settings` do not say; may change model_type.
  void (*complete)(const GgufFile& file, nlohmann::json& config) = nullptr;

  // What llama.cpp does with such files, for those that are written.
  bool reads_window = false;   // of attention; else files end their context where one would matter
  bool reads_factors = false;  // rope_freqs.weight
  bool reads_long_factors = false;
  bool needs_output = false;  // also where it is the table of words
  bool reads_output = true;   // else it always takes the table of words
};

/// What models with one value of model_type have in common. A new family is one file in this folder and one
/// word in MSPLORA_FAMILIES.
struct Family {
  std::string model_type;
  std::string class_prefix;                  // of Hugging Face's classes: "Roberta"
  std::vector<ModelTask> tasks;              // heads that can be run; empty: the shape alone is known
  std::vector<std::string> default_targets;  // modules that adapters change unless told otherwise
  std::optional<int64_t> pad_token_id;       // what Hugging Face's class takes when the key is missing
  /// Resolves config.json for a task. Problems are left with the reader.
  Architecture (*describe)(detail::ConfigReader& config, ModelTask task) = nullptr;
  std::string causal_lm_class = {};  // where it is not the prefix and ForCausalLM
  GgufFacts gguf = {};
};

// clang-format off
#define MSPLORA_FAMILIES(X)   \
  X(bert)                     \
  X(roberta)                  \
  X(xlm_roberta)              \
  X(electra)                  \
  X(distilbert)               \
  X(albert)                   \
  X(modernbert)               \
  X(llama)                    \
  X(mistral)                  \
  X(qwen2)                    \
  X(qwen3)                    \
  X(smollm3)                  \
  X(olmo2)                    \
  X(gemma2)                   \
  X(gemma3_text)              \
  X(phi3)                     \
  X(deberta_v2)               \
  X(gpt2)
// clang-format on

#define MSPLORA_DECLARE_FAMILY(name) Family name##_family();
MSPLORA_FAMILIES(MSPLORA_DECLARE_FAMILY)
#undef MSPLORA_DECLARE_FAMILY

}  // namespace msplora
