#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"

namespace msplora {

/// Last components of the paths that Hugging Face's models have their heads under.
inline const std::vector<std::string> kDefaultHeadModules = {"classifier", "score", "lm_head", "cls"};

/// count_parameters for every method: those that train parameters of the base itself (full, bitfit) count
/// them among `parameters`, of which names and shapes are read alone (parameters_of_shape). Throws like
/// count_parameters, and Error{kUsage} when such a method finds `parameters` empty.
ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers, const AttentionHeads& heads,
                                const std::vector<std::string>& head_modules,
                                const std::vector<NamedTensor>& parameters);

/// The options with the target modules of the model's family (default_target_modules) where they name none.
AdapterConfig with_default_targets(AdapterConfig config, const std::string& model_type);

/// What `method` uses of options written for several methods: the options that belong to other methods go
/// back to their defaults, which the method would refuse otherwise.
AdapterConfig config_for_method(const AdapterConfig& shared, const std::string& method);

}  // namespace msplora
