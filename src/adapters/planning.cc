#include "msplora/adapters/planning.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "adapters/initial_factors.h"
#include "adapters/method.h"
#include "msplora/models/model_config.h"

namespace msplora {
namespace {

const detail::Method& known_method(const AdapterConfig& config) {
  if (const detail::Method* method = detail::find_method(config.method)) return *method;
  std::vector<std::string> names;
  for (const detail::Method& method : detail::all_methods()) names.push_back(method.name);
  throw Error(ErrorCode::kConfig, "adapter.method", fmt::format("unknown method `{}`", config.method),
              did_you_mean(config.method, names));
}

}  // namespace

AdapterConfig with_default_targets(AdapterConfig config, const std::string& model_type) {
  if (config.target_modules.empty() && !config.target_modules_regex)
    config.target_modules = default_target_modules(model_type);
  return config;
}

AdapterConfig config_for_method(const AdapterConfig& shared, const std::string& method) {
  AdapterConfig config = shared;
  const AdapterConfig defaults;
  config.method = method;
  for (size_t i = 0; i < config.groups.size(); ++i) {
    if (config.groups[i].first != method) config.groups[i] = defaults.groups[i];
  }
  const detail::Method& known = known_method(config);
  const detail::MethodTraits& traits = known.traits;
  detail::reset_options(config, known.unused);
  if (!traits.takes_dropout) config.dropout = defaults.dropout;
  if (!traits.dora) config.use_dora = defaults.use_dora;
  if (!traits.lora_plus) config.lora_plus_ratio = defaults.lora_plus_ratio;
  if (!traits.lora_inits && config.init != "gaussian") config.init = defaults.init;
  if (!traits.levels) {
    config.levels = defaults.levels;
    config.ranks = defaults.ranks;
    config.alphas = defaults.alphas;
    config.dropouts = defaults.dropouts;
    config.mid_groups = defaults.mid_groups;
    config.layer_groups = defaults.layer_groups;
    config.sharing = defaults.sharing;
    config.stagewise = defaults.stagewise;
    config.stage_fractions = defaults.stage_fractions;
  }
  if (!traits.patterns) {
    config.rank_pattern = defaults.rank_pattern;
    config.alpha_pattern = defaults.alpha_pattern;
  }
  return without_overridden(config, shared);
}

AdapterConfig without_overridden(const AdapterConfig& config, const AdapterConfig& shared) {
  const detail::Method& method = known_method(config);
  if (!method.overridden) return config;
  AdapterConfig result = config;
  for (const detail::UnusedOption& option : method.overridden(config)) {
    if (config.get(option.name) == shared.get(option.name)) detail::reset_options(result, {option});
  }
  return result;
}

std::string method_line(const AdapterConfig& config) {
  return known_method(config).line(config);
}

std::vector<int64_t> update_ranks(const AdapterConfig& config, int64_t layer, int64_t num_layers) {
  return known_method(config).ranks(config, layer, num_layers);
}

FactorPairs factor_pairs(const AdapterConfig& config) {
  const detail::Method* method = detail::find_method(config.method);
  return method != nullptr ? method->traits.pairs : FactorPairs::kNone;
}

bool starts_in_weight(const AdapterConfig& config) {
  return detail::is_weight_init(config.init);
}

std::vector<std::string> trained_of_base(const AdapterConfig& config,
                                         const std::vector<Parameter>& parameters) {
  std::vector<std::string> names;
  const auto& trains = known_method(config).trains_parameter;
  for (const Parameter& parameter : parameters) {
    if (trains && trains(parameter.name)) names.push_back(parameter.name);
  }
  return names;
}

bool trains_whole_base(const AdapterConfig& config) {
  return known_method(config).traits.whole_base;
}

AdapterConfig settled_without_data(AdapterConfig config, int64_t num_layers) {
  if (const auto& settle = known_method(config).settle_without_data) settle(config, num_layers);
  return config;
}

MemoryQuestion memory_question(const Adapter& adapter) {
  MemoryQuestion question;
  for (const TrainableTensor& tensor : adapter.trainable())
    question.trainable_parameters += tensor.tensor.numel();
  question.trains_base = trains_whole_base(adapter.config());
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    if (adapter.sites()[i].layer < 0 && adapter.sites()[i].role != LinearRole::kOutput) continue;
    question.adapted.insert(adapter.sites()[i].role);
    int64_t rank = 0;
    for (const LowRankTerm& term : adapter.terms(i)) rank += term.down.size(0);
    question.rank = std::max(question.rank, rank);
  }
  return question;
}

bool is_unsettled(const AdapterConfig& config) {
  const auto& unsettled = known_method(config).is_unsettled;
  return unsettled && unsettled(config);
}

void check_method_run(const AdapterConfig& config, const RunFacts& run, ErrorList& errors) {
  if (const auto& check = known_method(config).check_run) check(config, run, errors);
}

namespace detail {

std::string lora_line(const AdapterConfig& config, const std::string& details) {
  std::string text = fmt::format("{}, rank {}, alpha {}", config.method, config.rank, config.alpha);
  if (config.dropout > 0) text += fmt::format(", dropout {}", config.dropout);
  if (config.use_rslora) text += ", rank-stabilised";
  if (config.init != AdapterConfig().init) text += fmt::format(", init {}", config.init);
  if (config.use_dora) text += ", DoRA";
  text += details;
  return text + (config.lora_plus_ratio == 1.0 ? "" : fmt::format(", LoRA+ {}", config.lora_plus_ratio));
}

}  // namespace detail
}  // namespace msplora
