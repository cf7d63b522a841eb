#pragma once

#include <functional>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/error.h"

namespace msplora::detail {

/// A parameter of the base model that is trained beside the adapter.
struct BaseParameter {
  Parameter parameter;
  ParameterGroup group = ParameterGroup::kHead;
};

/// Whether the parameter belongs to one of the modules (by full path).
bool lies_in(const std::string& parameter, const std::vector<std::string>& modules);

using ParameterFilter = std::function<bool(const std::string& name)>;

/// Whether the parameter belongs to a head or to modules_to_save.
bool is_saved_whole(const AdapterConfig& config, const std::vector<std::string>& head_modules,
                    const std::string& name);

/// What is trained of the base: what the method trains itself (the filter may be unset), biases as
/// config.bias says, then heads and modules_to_save. Adds to `errors` modules without parameters, a bias mode
/// without biases, and dtypes that cannot be trained. In an adapter file made elsewhere (`lenient`)
/// modules_to_save may name modules that this model lacks.
std::vector<BaseParameter> select_base_parameters(const AdapterConfig& config, const AdapterTarget& target,
                                                  const std::vector<Site>& targeted,
                                                  const ParameterFilter& trained_by_method, bool lenient,
                                                  ErrorList& errors);

/// Switches gradients on for `trained` and off for every other parameter of the target, and gives trained
/// matrices storage of their own. Throws Error{kUsage} when the target's parameters are not the model's own.
void prepare_base_parameters(const AdapterTarget& target, std::vector<BaseParameter>& trained);

}  // namespace msplora::detail
