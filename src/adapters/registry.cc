#include "adapters/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/config_checks.h"
#include "adapters/files_detail.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/option_io.h"

namespace msplora {
namespace {

using detail::Method;

const Method* named_method(const std::string& name, ErrorList& errors) {
  if (const Method* method = detail::find_method(name)) return method;
  std::vector<std::string> names;
  for (const Method& method : detail::all_methods()) names.push_back(method.name);
  const std::string nearest = did_you_mean(name, names);
  errors.add("adapter.method", fmt::format("unknown method `{}`", name),
             nearest.empty() ? fmt::format("known: {}", fmt::join(names, ", ")) : nearest);
  return nullptr;
}

void check_family_options(const Method& method, const AdapterConfig& config, ErrorList& errors) {
  const auto refuse = [&](bool is_refused, const char* option, const std::string& hint) {
    if (is_refused) {
      errors.add(option, fmt::format("has no meaning for method `{}`", method.name), hint);
    }
  };
  const detail::MethodTraits& knows = method.traits;
  refuse(config.use_dora && !knows.dora, "adapter.use_dora", "method: lora");
  refuse(config.lora_plus_ratio != 1.0 && !knows.lora_plus, "adapter.lora_plus_ratio",
         "it is for methods with pairs A and B: lora, msplora, aslora, prilora");
  const bool is_lora_init = config.init == "pissa" || config.init == "olora" || config.init == "orthogonal";
  refuse(is_lora_init && !knows.lora_inits, "adapter.init",
         fmt::format("`{}` is for method lora; default or gaussian", config.init));
  const auto foreign = [&](bool is_set, const char* option, const char* owner) {
    if (!is_set) return;
    errors.add(fmt::format("adapter.{}", option),
               fmt::format("belongs to method {}; {} would ignore it", owner, method.name));
  };
  // levels, mid_groups and sharing have defaults that act, so recipes of several methods may hold them.
  foreign(!config.ranks.empty() && !knows.levels, "ranks", "msplora");
  foreign(!config.alphas.empty() && !knows.levels, "alphas", "msplora");
  foreign(!config.dropouts.empty() && !knows.levels, "dropouts", "msplora");
  foreign(!config.layer_groups.empty() && !knows.levels, "layer_groups", "msplora");
  foreign(config.stagewise && !knows.levels, "stagewise", "msplora");
  foreign(!config.stage_fractions.empty() && !knows.levels, "stage_fractions", "msplora");
  foreign(!config.rank_pattern.empty() && !knows.patterns, "rank_pattern", "lora");
  foreign(!config.alpha_pattern.empty() && !knows.patterns, "alpha_pattern", "lora");
}

/// What a table of words cannot have: everything that looks at a weight [out, in], or at dense inputs.
void check_words(const Method& method, const AdapterConfig& config, const std::vector<Site>& sites,
                 ErrorList& errors) {
  for (const Site& site : sites) {
    if (site.role != LinearRole::kWords) continue;
    if (!method.traits.words) {
      errors.add(
          "adapter.target_modules",
          fmt::format("{} is a table of words, which method `{}` does not adapt", site.path, method.name),
          "lora and msplora do");
    } else if (config.use_dora) {
      errors.add("adapter.use_dora",
                 fmt::format("{} is a table of words, which has no magnitudes", site.path));
    } else if (config.init != "default" && config.init != "gaussian") {
      errors.add("adapter.init",
                 fmt::format("`{}` does not know a table of words, {}", config.init, site.path),
                 "default: A is 0 and B is normal");
    }
  }
}

/// Everything that can be said about a configuration without tensors.
struct Checked {
  const Method* method = nullptr;
  std::vector<Site> sites;
  std::vector<detail::TensorSpec> tensors;
};

Checked check(const AdapterConfig& config, const std::vector<Site>& sites, int64_t num_layers,
              const AttentionHeads& attention, const std::vector<std::string>& heads,
              detail::Strictness strictness, ErrorList& errors) {
  Checked checked;
  const size_t problems = errors.size();
  check_ranges(config, "adapter.", errors);
  const bool in_range = errors.size() == problems;
  checked.method = named_method(config.method, errors);
  if (checked.method == nullptr) return checked;
  check_family_options(*checked.method, config, errors);
  detail::check_foreign_options(config, errors);
  // Files of earlier versions may hold them.
  if (strictness == detail::Strictness::kStrict) {
    detail::refuse_options(config, checked.method->unused, errors);
    if (checked.method->overridden)
      detail::refuse_options(config, checked.method->overridden(config), errors);
  }
  if (checked.method->traits.uses_sites) {
    checked.sites = detail::match_targets(config, sites, heads, strictness, errors);
    check_words(*checked.method, config, checked.sites, errors);
  }
  // Values out of range (a rank of 0) would only produce follow-up problems.
  if (in_range) {
    const bool strict = strictness == detail::Strictness::kStrict;
    checked.tensors = checked.method->tensors({config, checked.sites, num_layers, strict, attention}, errors);
  }
  return checked;
}

std::string nothing_to_train(const Method& method) {
  return method.base_part.empty()
             ? fmt::format("nothing to train: `{}` trains heads alone and this model has none", method.name)
             : fmt::format("nothing to train: `{}` trains {} and heads, and this model has neither",
                           method.name, method.base_part);
}

/// Adds the parameters of the base that the method trains itself.
void count_base(const Method& method, const AdapterConfig& config, const std::vector<std::string>& heads,
                const std::vector<Parameter>& parameters, ParameterCount& count) {
  if (parameters.empty()) {
    throw Error(ErrorCode::kUsage, "count_parameters",
                fmt::format("method `{}` trains parameters of the base, whose shapes are not known here",
                            method.name),
                "name a model of a supported type");
  }
  count.per_level.resize(1);
  count.owners.resize(1);
  for (const Parameter& parameter : parameters) {
    if (detail::is_saved_whole(config, heads, parameter.name) || !method.trains_parameter(parameter.name))
      continue;
    count.total += parameter.numel();
    count.total_at_end += parameter.numel();
    count.per_level[0] += parameter.numel();
  }
}

}  // namespace

namespace detail {

const std::vector<Method>& all_methods() {
#define MSPLORA_MAKE_METHOD(NAME) NAME##_method(),
  static const std::vector<Method> methods = {MSPLORA_METHODS(MSPLORA_MAKE_METHOD)};
#undef MSPLORA_MAKE_METHOD
  return methods;
}

const Method* find_method(const std::string& name) {
  for (const Method& method : all_methods()) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

const Method& method_of(const Adapter& adapter) {
  return *find_method(adapter.config().method);
}

std::string no_files(const Adapter& adapter) {
  return adapter.is_of_registry()
             ? ""
             : "the adapter is of a class of its own, which files have no name for: only what "
               "create_adapter or load_adapter made is saved";
}

}  // namespace detail

std::unique_ptr<Adapter> AdapterBuilder::build(const AdapterConfig& config, AdapterTarget target,
                                               uint64_t seed) const {
  ErrorList errors;
  Checked checked =
      check(config, target.sites, target.num_layers, target.heads, target.head_modules, strictness, errors);
  const bool lenient = strictness == detail::Strictness::kLenient;
  const detail::ParameterFilter trains =
      checked.method != nullptr ? checked.method->trains_parameter : nullptr;
  auto base = detail::select_base_parameters(config, target, checked.sites, trains, lenient, errors);
  if (errors.empty() && checked.tensors.empty() && base.empty()) {
    errors.add("adapter.method", nothing_to_train(*checked.method),
               "name modules in modules_to_save, or take another method");
  }
  throw_if_any(errors);
  const bool has_layers = std::any_of(checked.sites.begin(), checked.sites.end(),
                                      [](const Site& site) { return site.linear != nullptr; });
  for (const Site& site : checked.sites) {
    if (site.linear == nullptr && (has_layers || !values_follow)) {
      throw Error(ErrorCode::kUsage, site.path, "the site has no layer (only its shape is known)");
    }
  }
  std::unique_ptr<Adapter> adapter =
      checked.method->create({config, std::move(target), std::move(checked.sites), seed, values_follow});
  adapter->is_of_registry_ = true;
  adapter->base_ = std::make_unique<detail::TrainedBase>(adapter->target_, std::move(base));
  for (size_t i = 0; i < adapter->base_->parameters().size(); ++i) {
    const detail::BaseParameter& entry = adapter->base_->parameters()[i];
    adapter->trainable_.push_back({entry.parameter.name, adapter->base_->tensor(i), entry.group, 0});
  }
  if (!adapter->is_shape_only()) adapter->attach();
  return adapter;
}

void AdapterBuilder::throw_if_any(const ErrorList& errors) const {
  if (!place) return errors.throw_if_any(code, title);
  constexpr std::string_view kSection = "adapter.";
  ErrorList told;
  for (const Error& problem : errors.problems()) {
    const bool is_option = problem.where().rfind(kSection, 0) == 0;
    told.add(is_option ? place(problem.where().substr(kSection.size())) : title, problem.message(), remedy);
  }
  told.throw_if_any(code, title);
}

std::unique_ptr<Adapter> create_adapter(const AdapterConfig& config, AdapterTarget target, uint64_t seed) {
  if (!config.init_from.empty()) return detail::start_adapter(config, std::move(target));
  const AdapterConfig chosen = with_default_targets(config, target.model_type);
  return AdapterBuilder().build(chosen, std::move(target), seed);
}

std::vector<std::pair<std::string, OptionGroup>> AdapterConfig::default_groups() {
  std::vector<std::pair<std::string, OptionGroup>> groups;
  for (const Method& method : detail::all_methods()) {
    if (!method.options.empty()) groups.emplace_back(method.name, method.options);
  }
  return groups;
}

std::vector<MethodInfo> adapter_methods() {
  std::vector<MethodInfo> infos;
  for (const Method& method : detail::all_methods()) {
    infos.push_back({method.name, method.summary, method.traits.takes_dropout});
  }
  return infos;
}

ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers, const std::vector<std::string>& head_modules) {
  return count_parameters(config, sites, num_layers, AttentionHeads(), head_modules, {});
}

ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers, const AttentionHeads& heads,
                                const std::vector<std::string>& head_modules) {
  return count_parameters(config, sites, num_layers, heads, head_modules, {});
}

ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers, const AttentionHeads& heads,
                                const std::vector<std::string>& head_modules,
                                const std::vector<Parameter>& parameters) {
  ErrorList errors;
  const Checked checked =
      check(config, sites, num_layers, heads, head_modules,
            config.init_from.empty() ? detail::Strictness::kStrict : detail::Strictness::kLenient, errors);
  if (errors.empty() && !config.init_from.empty()) detail::check_start(config, checked.tensors, errors);
  errors.throw_if_any(ErrorCode::kConfig, "adapter");
  ParameterCount count;
  std::vector<std::set<int64_t>> owners;
  for (const detail::TensorSpec& tensor : checked.tensors) {
    const auto level = static_cast<size_t>(tensor.level);
    if (level >= owners.size()) {
      owners.resize(level + 1);
      count.per_level.resize(level + 1);
    }
    int64_t size = 1;
    for (const int64_t extent : tensor.shape) size *= extent;
    count.total += size;
    if (!tensor.is_dropped) count.total_at_end += size;
    count.per_level[level] += size;
    owners[level].insert(tensor.owner_layer);
  }
  for (const auto& level : owners) count.owners.emplace_back(level.begin(), level.end());
  if (checked.method->trains_parameter) count_base(*checked.method, config, head_modules, parameters, count);
  return count;
}

}  // namespace msplora
