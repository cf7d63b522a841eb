#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/error.h"

namespace msplora::detail {

/// A trainable tensor before it exists.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  int64_t level = 0;
  int64_t owner_layer = -1;
  bool is_dropped = false;  // in the course of training
};

/// What a method plans with: options and shapes.
struct PlanInput {
  const AdapterConfig& config;
  const std::vector<Site>& sites;  // the targeted ones
  int64_t num_layers = 0;
  bool check_ranks =
      true;  // off for adapter files: PEFT allows ranks above a dimension, and concatenation makes them
  AttentionHeads heads = {};
};

/// What a method builds from, checked before.
struct MethodInput {
  AdapterConfig config;
  AdapterTarget target;
  std::vector<Site> sites;
  uint64_t seed = 0;
  bool values_follow = false;  // from a file: initial values need not be computed
};

/// Which of the options that several methods of the LoRA family share a method knows.
struct FamilyOptions {
  bool lora_plus = false;   // lora_plus_ratio
  bool lora_inits = false;  // init: pissa, olora, orthogonal
  bool dora = false;        // use_dora
};

/// One entry of the registry: a method is one file that provides this.
struct Method {
  MethodInfo info;
  bool uses_sites = true;
  /// Checks the options (problems go to the list) and says which tensors they make. Allocates nothing.
  std::function<std::vector<TensorSpec>(const PlanInput&, ErrorList&)> tensors;
  std::function<std::unique_ptr<Adapter>(MethodInput)> create;
  FamilyOptions family = {};
  /// Whether a parameter of the base is trained by the method itself; unset for methods that leave the base
  /// alone. Heads and modules_to_save are trained in any case and not asked for.
  std::function<bool(const std::string& name)> trains_parameter = {};
};

Method lora_method();
Method msplora_method();
Method aslora_method();
Method prilora_method();
Method flatlora_method();
Method lorapro_method();
Method xgblora_method();
Method gelora_method();
Method head_only_method();
Method lorta_method();
Method ttlora_method();
Method glora_method();
Method full_method();
Method bitfit_method();

}  // namespace msplora::detail
