#pragma once

#include <string>
#include <vector>

#include "msplora/models/model.h"

namespace msplora {

/// The parameters of a model of this shape on the meta device: names and shapes without numbers, whatever the
/// size of the model. Throws like create_model.
std::vector<NamedTensor> parameters_of_shape(const ModelConfig& config, ModelTask task);

/// The linear layers of attention that adapters of this family change unless told otherwise (queries and
/// values, as in the LoRA paper; GPT-2 has them in one), as path suffixes. Empty for unknown types.
std::vector<std::string> default_target_modules(const std::string& model_type);

}  // namespace msplora
