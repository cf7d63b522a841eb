#include "adapters/base_parameters.h"

#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
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

namespace {

/// The parameters that adapters have their values in, of all models of the process: adapters do not know of
/// one another.
class HeldParameters {
 public:
  bool contains(const void* key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return keys_.contains(key);
  }
  void add(const void* key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    keys_.insert(key);
  }
  void remove(const void* key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    keys_.erase(key);
  }
  static HeldParameters& all() {
    static HeldParameters held;
    return held;
  }

 private:
  std::mutex mutex_;
  std::set<const void*> keys_;
};

const void* key_of(const Parameter& parameter) {
  return parameter.weight ? static_cast<const void*>(parameter.weight.get())
                          : static_cast<const void*>(parameter.vector.unsafeGetTensorImpl());
}

/// Values, gradient and requires_grad of two tensors. Every handle of the model's sees the other's then.
void exchange_vectors(at::Tensor in_model, at::Tensor& other) {
  at::Tensor kept = in_model.detach();
  kept.requires_grad_(in_model.requires_grad());
  kept.mutable_grad() = in_model.grad();
  in_model.set_data(other.detach());
  in_model.requires_grad_(other.requires_grad());
  in_model.mutable_grad() = other.grad();
  other = std::move(kept);
}

}  // namespace

TrainedBase::TrainedBase(const AdapterTarget& target, std::vector<BaseParameter> trained)
    : target_(target), trained_(std::move(trained)) {
  std::unordered_map<std::string, const Linear*> layers;
  for (const Site& site : target.sites) layers[site.path] = site.linear;
  for (const BaseParameter& base : trained_) {
    const Parameter& parameter = base.parameter;
    const auto found = layers.find(module_of(parameter.name));
    if (found != layers.end() && found->second != nullptr) {
      const Linear& layer = *found->second;
      const bool is_own =
          parameter.weight ? parameter.weight == layer.weight : parameter.vector.is_same(layer.bias);
      if (!is_own) {
        throw Error(
            ErrorCode::kUsage, "AdapterTarget.parameters",
            parameter.name + " is not what the layer computes with, so training it would change nothing");
      }
    }
    const at::ScalarType dtype = parameter.dtype() == at::kDouble ? at::kDouble : at::kFloat;
    at::Tensor own = parameter.values().detach().to(dtype, /*non_blocking=*/false, /*copy=*/true);
    own.requires_grad_(true);
    if (parameter.weight) {
      if (parameter.weight->frozen()) parameter.weight->frozen()->let_go();
      others_.push_back({Weight(std::move(own)), {}});
    } else {
      others_.push_back({std::nullopt, std::move(own)});
    }
  }
}

TrainedBase::~TrainedBase() {
  take_out_of_model();
}

const void* TrainedBase::key(size_t index) const {
  return key_of(trained_[index].parameter);
}

at::Tensor TrainedBase::tensor(size_t index) const {
  if (is_in_model_) return trained_[index].parameter.tensor();
  return others_[index].weight ? others_[index].weight->tensor() : others_[index].vector;
}

void TrainedBase::exchange() {
  for (size_t i = 0; i < trained_.size(); ++i) {
    Parameter& parameter = trained_[i].parameter;
    if (parameter.weight) {
      std::swap(*parameter.weight, *others_[i].weight);
    } else {
      exchange_vectors(parameter.vector, others_[i].vector);
    }
  }
}

void TrainedBase::put_into_model() {
  if (is_in_model_) return;
  HeldParameters& held = HeldParameters::all();
  for (size_t i = 0; i < trained_.size(); ++i) {
    if (!held.contains(key(i))) continue;
    throw Error(ErrorCode::kUsage, trained_[i].parameter.name,
                "another adapter that is on the model trains it, too", "detach or destroy it first");
  }
  for (const Parameter& parameter : target_.parameters) {
    const at::Tensor& tensor = parameter.tensor();
    if (!tensor.defined() || !tensor.requires_grad() || held.contains(key_of(parameter))) continue;
    switched_off_.push_back(tensor);
    tensor.requires_grad_(false);
  }
  exchange();
  for (size_t i = 0; i < trained_.size(); ++i) held.add(key(i));
  is_in_model_ = true;
}

void TrainedBase::take_out_of_model() {
  if (!is_in_model_) return;
  for (size_t i = 0; i < trained_.size(); ++i) HeldParameters::all().remove(key(i));
  exchange();
  is_in_model_ = false;
  set_gradients_back();
}

void TrainedBase::leave_in_model() {
  if (!is_in_model_) return;
  for (size_t i = 0; i < trained_.size(); ++i) {
    HeldParameters::all().remove(key(i));
    trained_[i].parameter.tensor().requires_grad_(false);
  }
  set_gradients_back();
  trained_.clear();
  others_.clear();
  is_in_model_ = false;
}

void TrainedBase::set_gradients_back() {
  for (const at::Tensor& tensor : switched_off_) tensor.requires_grad_(true);
  switched_off_.clear();
}

}  // namespace msplora::detail
