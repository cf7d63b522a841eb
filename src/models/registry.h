#pragma once

#include <string>

#include "models/families/family.h"

namespace msplora {

/// Null when no family has this model_type.
const Family* find_family(const std::string& model_type);

/// The family of a GGUF file's general.architecture; null when it is not known.
const Family* find_gguf_family(const std::string& architecture);
/// "llama, qwen2, ...": those that are.
std::string known_gguf_architectures();

/// "sequence classification", "causal language modelling", ...
std::string task_name(ModelTask task);

/// Hugging Face's class of a model with this head, for config.json: "RobertaForMaskedLM".
std::string class_name(const Family& family, ModelTask task);

}  // namespace msplora
