#pragma once

#include <string>

#include "models/families/family.h"

namespace msplora {

/// Null when no family has this model_type.
const Family* find_family(const std::string& model_type);

/// Hugging Face's class of a model with this head, for config.json: "RobertaForMaskedLM".
std::string class_name(const Family& family, ModelTask task);

}  // namespace msplora
