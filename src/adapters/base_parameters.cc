#include "adapters/base_parameters.h"

#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "adapters/target_modules.h"
#include "msplora/nn/dtype.h"

namespace msplora::detail {
namespace {

std::string module_of(const std::string& parameter) {
  const size_t dot = parameter.rfind('.');
  return dot == std::string::npos ? std::string() : parameter.substr(0, dot);
}

bool is_bias(const std::string& name) {
  return matches_suffix(name, "bias");
}

/// Modules and their last components, for suggestions.
std::vector<std::string> module_names(const AdapterTarget& target) {
  std::set<std::string> names;
  for (const Parameter& parameter : target.parameters) {
    for (std::string module = module_of(parameter.name); !module.empty(); module = module_of(module)) {
      names.insert(module);
      names.insert(module.substr(module.rfind('.') + 1));
    }
  }
  return {names.begin(), names.end()};
}

void check_modules(const AdapterConfig& config, const AdapterTarget& target, bool lenient,
                   ErrorList& errors) {
  for (const std::string& head : target.head_modules) {
    const bool found = std::any_of(target.parameters.begin(), target.parameters.end(),
                                   [&](const Parameter& p) { return lies_in(p.name, {head}); });
    if (!found) errors.add("model", fmt::format("the head `{}` has no parameters", head));
  }
  if (lenient) return;
  for (const std::string& entry : config.modules_to_save) {
    const bool found =
        std::any_of(target.parameters.begin(), target.parameters.end(),
                    [&](const Parameter& p) { return contains_components(module_of(p.name), entry); });
    if (found) continue;
    const auto tie = std::find_if(target.ties.begin(), target.ties.end(), [&](const TiedName& tied) {
      return contains_components(module_of(tied.name), entry);
    });
    if (tie == target.ties.end()) {
      errors.add("adapter.modules_to_save", fmt::format("`{}` matches no module with parameters", entry),
                 did_you_mean(entry, module_names(target)));
    } else {
      const std::string words = module_of(tie->parameter);
      errors.add("adapter.modules_to_save",
                 fmt::format("`{}` has no matrix of its own: it is that of {}", entry, words),
                 fmt::format("`{}` trains it for both, `{}` in target_modules adapts the output layer alone",
                             words.substr(words.rfind('.') + 1), entry));
    }
  }
}

/// One matrix cannot be trained whole and stand still below an update.
void check_tied_sites(const AdapterTarget& target, const std::vector<Site>& targeted,
                      const std::vector<BaseParameter>& saved, ErrorList& errors) {
  for (const TiedName& tie : target.ties) {
    const bool is_targeted = std::any_of(targeted.begin(), targeted.end(),
                                         [&](const Site& site) { return site.path + ".weight" == tie.name; });
    const bool is_saved = std::any_of(saved.begin(), saved.end(), [&](const BaseParameter& entry) {
      return entry.parameter.name == tie.parameter;
    });
    if (!is_targeted || !is_saved) continue;
    errors.add("adapter.target_modules",
               fmt::format("{} shares its matrix with {}, which modules_to_save trains whole",
                           module_of(tie.name), module_of(tie.parameter)),
               "name one of the two");
  }
}

void check_dtype(const BaseParameter& trained, ErrorList& errors) {
  const at::ScalarType dtype = trained.parameter.dtype();
  if (dtype == at::kFloat || dtype == at::kDouble) return;
  if (trained.parameter.sizes().size() >= 2 && at::isFloatingType(dtype)) return;  // becomes a float32 copy
  const char* where = trained.group == ParameterGroup::kBias ? "adapter.bias" : "adapter.modules_to_save";
  errors.add(where,
             fmt::format("{} is {}, but trained biases and norms must be float32", trained.parameter.name,
                         dtype_name(dtype)),
             "load the model with its vectors in float32, or with compute dtype float32");
}

}  // namespace

bool lies_in(const std::string& parameter, const std::vector<std::string>& modules) {
  return std::any_of(modules.begin(), modules.end(), [&](const std::string& module) {
    return parameter.size() > module.size() && parameter[module.size()] == '.' &&
           parameter.rfind(module, 0) == 0;
  });
}

bool is_saved_whole(const AdapterConfig& config, const std::vector<std::string>& head_modules,
                    const std::string& name) {
  if (lies_in(name, head_modules)) return true;
  const std::string module = module_of(name);
  return std::any_of(config.modules_to_save.begin(), config.modules_to_save.end(),
                     [&](const std::string& entry) { return contains_components(module, entry); });
}

std::vector<BaseParameter> select_base_parameters(const AdapterConfig& config, const AdapterTarget& target,
                                                  const std::vector<Site>& targeted,
                                                  const ParameterFilter& trained_by_method, bool lenient,
                                                  ErrorList& errors) {
  check_modules(config, target, lenient, errors);
  const auto is_site_bias = [&](const Parameter& parameter) {
    return std::any_of(targeted.begin(), targeted.end(), [&](const Site& site) {
      // The bias of a masked language model's output layer has a name of its own.
      const bool is_its_own = site.linear != nullptr && site.linear->bias.defined() &&
                              site.linear->bias.is_same(parameter.vector);
      return is_its_own || parameter.name == site.path + ".bias";
    });
  };
  std::vector<BaseParameter> trained, biases, saved;
  for (const Parameter& parameter : target.parameters) {
    if (is_saved_whole(config, target.head_modules, parameter.name)) {
      saved.push_back({parameter, ParameterGroup::kHead});
    } else if (trained_by_method && trained_by_method(parameter.name)) {
      trained.push_back({parameter, ParameterGroup::kAdapter});
    } else if (config.bias == "all" ? is_bias(parameter.name)
                                    : config.bias == "lora_only" && is_site_bias(parameter)) {
      biases.push_back({parameter, ParameterGroup::kBias});
    }
  }
  if (biases.empty() && !lenient &&
      (config.bias == "all" || (config.bias == "lora_only" && !targeted.empty()))) {
    errors.add("adapter.bias",
               config.bias == "all" ? "`all`, but the model has no biases outside its heads"
                                    : "`lora_only`, but no targeted module has a bias",
               "bias: none");
  }
  check_tied_sites(target, targeted, saved, errors);
  trained.insert(trained.end(), biases.begin(), biases.end());
  trained.insert(trained.end(), saved.begin(), saved.end());
  for (const BaseParameter& parameter : trained) check_dtype(parameter, errors);
  return trained;
}

void prepare_base_parameters(const AdapterTarget& target, std::vector<BaseParameter>& trained) {
  std::unordered_map<std::string, const Linear*> layers;
  for (const Site& site : target.sites) layers[site.path] = site.linear;
  for (const Parameter& parameter : target.parameters) {
    const at::Tensor& tensor = parameter.tensor();
    if (tensor.defined() && tensor.is_floating_point()) tensor.requires_grad_(false);
  }
  for (BaseParameter& base : trained) {
    const std::string& name = base.parameter.name;
    const auto found = layers.find(module_of(name));
    if (found != layers.end() && found->second != nullptr) {
      const Linear& layer = *found->second;
      const bool is_own = base.parameter.weight ? base.parameter.weight == layer.weight
                                                : base.parameter.vector.is_same(layer.bias);
      if (!is_own) {
        throw Error(ErrorCode::kUsage, "AdapterTarget.parameters",
                    name + " is not what the layer computes with, so training it would change nothing");
      }
    }
    const at::ScalarType dtype = base.parameter.dtype();
    base.parameter.own(dtype == at::kDouble ? dtype : at::kFloat).requires_grad_(true);
  }
}

}  // namespace msplora::detail
