#pragma once

#include <set>
#include <string>
#include <vector>

#include "msplora/nn/weight.h"

namespace msplora::detail {

/// Every module that holds parameters, and the modules around it, by path.
std::set<std::string> module_paths(const std::vector<Parameter>& parameters);

/// The modules that PEFT takes for modules_to_save: those whose path ends with one of the names, dots or not
/// (`norm` is `model.norm` and every `input_layernorm`).
std::set<std::string> taken_by_peft(const std::vector<std::string>& names,
                                    const std::set<std::string>& paths);

/// The modules that none of the others contains.
std::vector<std::string> outermost(const std::set<std::string>& paths);

/// Names under which PEFT takes exactly the modules that our rule takes (an entry stands for whole components
/// of a path, base_parameters.h): `names` themselves where they do, else full paths.
std::vector<std::string> names_for_peft(const std::vector<std::string>& names,
                                        const std::vector<Parameter>& parameters);

/// The other way: `names` where our rule takes what PEFT's does, else the full paths of PEFT's modules.
std::vector<std::string> names_from_peft(const std::vector<std::string>& names,
                                         const std::vector<Parameter>& parameters);

}  // namespace msplora::detail
