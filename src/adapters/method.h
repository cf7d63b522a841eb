#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/config_checks.h"
#include "adapters/method_list.h"
#include "msplora/adapters/adapter.h"
#include "msplora/adapters/planning.h"
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

/// What may be known of a method without looking into it.
struct MethodTraits {
  bool uses_sites = true;     // adapts linear layers
  bool takes_dropout = true;  // adapter.dropout acts
  bool whole_base = false;    // trains every parameter of the base
  FactorPairs pairs = FactorPairs::kNone;
  // Which of the options that several methods share it knows:
  bool lora_plus = false;   // lora_plus_ratio
  bool lora_inits = false;  // init: pissa, olora, orthogonal
  bool dora = false;        // use_dora
  bool levels = false;    // levels, ranks, alphas, dropouts, mid_groups, sharing, stagewise, stage_fractions
  bool patterns = false;  // rank_pattern, alpha_pattern

  bool words = false;  // adapts tables of words: its update is low-rank terms with the usual initial factors
};

/// The line of LoRA and of methods that are set up as it is: rank, alpha and what else is set; `details` is
/// put before LoRA+.
std::string lora_line(const AdapterConfig& config, const std::string& details = {});

/// An adapter as a tuner of PEFT other than LoRA has it.
struct PeftTuner {
  nlohmann::json options;            // the tuner's own entries of adapter_config.json
  std::vector<NamedTensor> tensors;  // by module path, without PEFT's prefix
  std::vector<NamedTensor> shared;   // of the tuner itself, for all modules
  std::string refusal;               // why there is no exact form; "" when there is
};

class PeftReader;   // peft_config.h
struct PeftConfig;  // peft_config.h

/// How PEFT has the method. Without a type its files are those of LoRA, into which any sum of low-rank terms
/// fits.
struct PeftForm {
  /// Whether rank, alpha, their patterns and use_rslora describe the terms as they do for LoRA, so that files
  /// keep them; otherwise scalings are folded into the factors.
  bool keeps_lora_options = false;
  /// Why the update of an adapter has no exact LoRA form, or ""; unset where it always has.
  std::function<std::string(const Adapter&)> no_lora_form = {};

  std::string type = {};  // PEFT's tuner of the method, "GLORA"
  /// Reads the tuner's own entries of adapter_config.json.
  std::function<void(PeftReader&, PeftConfig&)> read = {};
  /// Asked where there is no LoRA form; unset for LoRA itself.
  std::function<PeftTuner(const Adapter&)> write = {};
  /// Our options that the tuner calls otherwise: ours, PEFT's.
  std::vector<std::pair<std::string, std::string>> keys = {};
  std::string mark = {};                 // names of its tensors are PATH + mark + something: ".glora_"
  std::string skipped = {};              // the end of names that hold nothing
  std::vector<std::string> shared = {};  // names of tensors of the tuner itself
};

/// Everything that is known of one method. It stands in the method's own file, and nowhere else.
struct Method {
  std::string name;
  std::string summary;  // one sentence
  MethodTraits traits = {};
  OptionGroup options = {};  // its own group with the defaults; empty for most
  /// Options that most methods share and that do nothing here: a recipe that sets one is refused.
  std::vector<UnusedOption> unused = {};
  /// Those that other options of the configuration leave nothing to do.
  std::function<std::vector<UnusedOption>(const AdapterConfig&)> overridden = {};

  /// Checks the options (problems go to the list) and says which tensors they make. Allocates nothing.
  std::function<std::vector<TensorSpec>(const PlanInput&, ErrorList&)> tensors;
  std::function<std::unique_ptr<Adapter>(MethodInput)> create;

  /// What a run's panel says of the method.
  std::function<std::string(const AdapterConfig&)> line = [](const AdapterConfig& config) {
    return lora_line(config);
  };
  /// The ranks of the update of a module in this layer of so many, level by level; right in the sum over all
  /// layers.
  std::function<std::vector<int64_t>(const AdapterConfig&, int64_t layer, int64_t num_layers)> ranks =
      [](const AdapterConfig& config, int64_t, int64_t) { return std::vector<int64_t>{config.rank}; };
  /// Sets what a run would find out first from its data, where there is none (benchmarks).
  std::function<void(AdapterConfig&, int64_t num_layers)> settle_without_data = {};
  /// Whether options are left that a run finds out first; the tensors are then at least those planned.
  std::function<bool(const AdapterConfig&)> is_unsettled = {};
  /// Adds what cannot work in such a run.
  std::function<void(const AdapterConfig&, const RunFacts&, ErrorList&)> check_run = {};
  /// Whether a parameter of the base is trained by the method itself; unset for methods that leave the base
  /// alone. Heads and modules_to_save are trained in any case and not asked for.
  std::function<bool(const std::string& name)> trains_parameter = {};
  std::string base_part = {};  // those parameters in a word: "biases"
  PeftForm peft = {};
};

#define MSPLORA_DECLARE_METHOD(NAME) Method NAME##_method();
MSPLORA_METHODS(MSPLORA_DECLARE_METHOD)
#undef MSPLORA_DECLARE_METHOD

/// Null for an unknown name.
const Method* find_method(const std::string& name);
const std::vector<Method>& all_methods();
/// The method of an adapter of the registry.
const Method& method_of(const Adapter& adapter);
/// Why an adapter has no files, or "": its class is none of the registry's.
std::string no_files(const Adapter& adapter);

}  // namespace msplora::detail
