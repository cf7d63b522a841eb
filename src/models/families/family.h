#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/config_reader.h"
#include "msplora/models/architecture.h"

namespace msplora {

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
