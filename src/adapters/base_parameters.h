#pragma once

#include <functional>
#include <optional>
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

/// The parameters of the base that one adapter trains: the adapter's values and the base's, which change
/// places between the model and this object.
class TrainedBase {
 public:
  /// The adapter's values begin as copies of the base's; the model keeps the base's. Throws Error{kUsage}
  /// when the target's parameters are not the model's own.
  TrainedBase(const AdapterTarget& target, std::vector<BaseParameter> trained);
  ~TrainedBase();
  TrainedBase(const TrainedBase&) = delete;
  TrainedBase& operator=(const TrainedBase&) = delete;

  const std::vector<BaseParameter>& parameters() const { return trained_; }
  /// With the adapter's values; while they are in the model, what the model computes with.
  at::Tensor tensor(size_t index) const;

  /// Throws Error{kUsage} where another adapter has its values in the model; all is as it was then.
  void put_into_model();
  void take_out_of_model();
  /// The adapter's values stay in the model, and the base's are forgotten.
  void leave_in_model();

 private:
  const void* key(size_t index) const;
  void exchange();
  void set_gradients_back();

  const AdapterTarget& target_;
  std::vector<BaseParameter> trained_;
  /// Of each, what is not in the model: a weight, or a vector.
  struct Other {
    std::optional<Weight> weight;
    at::Tensor vector;
  };
  std::vector<Other> others_;
  std::vector<at::Tensor> switched_off_;  // parameters that asked for gradients before
  bool is_in_model_ = false;
};

}  // namespace msplora::detail
