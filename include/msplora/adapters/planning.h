#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/error.h"
#include "msplora/models/memory_estimate.h"

/// What is known of a method before there is a model: what programs that plan, describe and compare runs ask.
namespace msplora {

/// Last components of the paths that Hugging Face's classifiers have their heads under.
inline const std::vector<std::string> kDefaultHeadModules = {"classifier", "score"};

/// count_parameters for every method: those that train parameters of the base itself (full, bitfit) count
/// them among `parameters`, of which names and shapes are read alone (parameters_of_shape). Throws like
/// count_parameters, and Error{kUsage} when such a method finds `parameters` empty.
ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers, const AttentionHeads& heads,
                                const std::vector<std::string>& head_modules,
                                const std::vector<Parameter>& parameters);

/// The options with the target modules of the model's family (default_target_modules) where they name none.
AdapterConfig with_default_targets(AdapterConfig config, const std::string& model_type);

/// What `method` uses of options written for several methods: the options that it has no use for go back to
/// their defaults. A method refuses those otherwise, but for levels, mid_groups and sharing, whose defaults
/// act: it ignores them, so that a recipe may hold them whatever its method.
AdapterConfig config_for_method(const AdapterConfig& shared, const std::string& method);

/// The same for a method's own settings on top of that (`ranks` beside the `rank` of all): what they leave
/// nothing to do goes back to its default where it is still what `shared` has.
AdapterConfig without_overridden(const AdapterConfig& config, const AdapterConfig& shared);

// The following throw Error{kConfig} for an unknown method.

/// One line on the method and its options: "lora, rank 8, alpha 16".
std::string method_line(const AdapterConfig& config);

/// The ranks of the update of a module in this layer of so many, level by level; empty for methods without
/// factors.
std::vector<int64_t> update_ranks(const AdapterConfig& config, int64_t layer, int64_t num_layers);

/// Whether what a method trains is pairs of low-rank factors and nothing else, of which sums over clients may
/// be formed: none, one pair for each module, or pairs that modules share.
enum class FactorPairs { kNone, kOwn, kShared };
/// kNone for an unknown method.
FactorPairs factor_pairs(const AdapterConfig& config);

/// Whether the factors begin as a part of the weight, which the update then lacks (PiSSA, OLoRA): a client's
/// change is s (B A - B0 A0).
bool starts_in_weight(const AdapterConfig& config);

/// Names of those of `parameters` that the method itself trains (full: all, bitfit: the biases). Heads and
/// modules_to_save are trained in any case and not asked for.
std::vector<std::string> trained_of_base(const AdapterConfig& config,
                                         const std::vector<Parameter>& parameters);

/// Whether every parameter of the base is trained (full fine-tuning).
bool trains_whole_base(const AdapterConfig& config);

/// The options with what a run finds out first from its data (ranks, a search) set to something usual, for a
/// model of so many layers: benchmarks have no data.
AdapterConfig settled_without_data(AdapterConfig config, int64_t num_layers);

/// What the estimate of memory asks about an adapter and what is trained beside it
/// (models/memory_estimate.h); tokens and types are the caller's to fill.
MemoryQuestion memory_question(const Adapter& adapter);

/// Whether options are left that a run finds out first: it trains at least what count_parameters says.
bool is_unsettled(const AdapterConfig& config);

/// What a run offers a method.
struct RunFacts {
  std::optional<int64_t> steps;  // unset: not known before
  bool has_validation = true;
};
/// Adds what the method lacks in such a run.
void check_method_run(const AdapterConfig& config, const RunFacts& run, ErrorList& errors);

}  // namespace msplora
