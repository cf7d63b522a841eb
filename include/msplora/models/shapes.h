#pragma once

#include <vector>

#include "msplora/models/model.h"

namespace msplora {

/// The parameters of a model of this shape on the meta device: names and shapes without numbers, whatever the
/// size of the model. Throws like create_model.
std::vector<NamedTensor> parameters_of_shape(const ModelConfig& config, ModelTask task);

}  // namespace msplora
