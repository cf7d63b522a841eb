#include "msplora/federated/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "federated/check_options.h"
#include "federated/partition_kinds.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/option_io.h"
#include "msplora/federated/aggregator.h"

namespace msplora {
namespace {

void check_method(const FederatedOptions& options, const AdapterConfig& adapter,
                  const AggregatorTraits& traits, ErrorList& errors, const std::string& where) {
  const auto at = [&](const char* key) { return fmt::format("{}: {}", where, key); };
  const FactorPairs pairs = factor_pairs(adapter);
  if (pairs == FactorPairs::kNone) {
    errors.add(at("adapter.method"), fmt::format("`{}` cannot be trained by clients", adapter.method),
               "lora, or msplora with the aggregator fedit");
  } else if (pairs == FactorPairs::kShared && traits.only_lora) {
    errors.add(at("federated.aggregator"),
               fmt::format("`{}` is defined for lora; {} shares factors between layers", options.aggregator,
                           adapter.method),
               "fedit, which averages any factors, or adapter.method: lora");
  }
  if (starts_in_weight(adapter)) {
    errors.add(
        at("adapter.init"),
        fmt::format("`{}` starts at a part B0 A0 of the weight, so a client's change is s (B A - B0 A0), but "
                    "servers combine s B A",
                    adapter.init),
        "default, gaussian or orthogonal");
  }
  if (adapter.use_dora) {
    errors.add(
        at("adapter.use_dora"),
        "trains a magnitude for each output beside its pairs of factors, and servers combine pairs alone",
        "remove it");
  }
  if (adapter.stagewise) {
    errors.add(at("adapter.stagewise"), "the stages would begin anew in every round", "remove it");
  }
}

void check_ranks(const FederatedOptions& options, const AdapterConfig& adapter,
                 const AggregatorTraits& traits, ErrorList& errors, const std::string& where) {
  if (options.client_ranks.empty()) return;
  const std::string at = where + ": federated.client_ranks";
  if (static_cast<int64_t>(options.client_ranks.size()) != options.clients) {
    errors.add(at, fmt::format("{} ranks for {} clients", options.client_ranks.size(), options.clients),
               "one for each client");
  }
  const std::set<int64_t> different(options.client_ranks.begin(), options.client_ranks.end());
  if (different.size() > 1 && !traits.mixed_ranks) {
    errors.add(at, fmt::format("different ranks are not defined for `{}`", options.aggregator),
               "flexlora or flora");
  }
  if (!adapter.rank_pattern.empty() || factor_pairs(adapter) != FactorPairs::kOwn) {
    errors.add(at, "given together with adapter.rank_pattern or a method other than lora", "remove one");
  }
}

/// Options that were set and would be ignored.
void check_unused(const FederatedOptions& options, ErrorList& errors, const std::string& where) {
  const FederatedOptions defaults;
  const auto refuse = [&](const std::string& key, const nlohmann::json& value, const nlohmann::json& usual,
                          const std::string& why) {
    if (value != usual) errors.add(fmt::format("{}: federated.{}", where, key), why);
  };
  for (const AggregatorKind& kind : aggregators()) {
    if (kind.options.empty()) continue;
    const bool is_chosen = kind.name == options.aggregator;
    const auto group = std::find_if(options.groups.begin(), options.groups.end(),
                                    [&](const auto& entry) { return entry.first == kind.group; });
    const nlohmann::json set = to_json(group->second), usual = to_json(kind.options);
    const std::vector<std::string> unused =
        is_chosen && kind.unused ? kind.unused(group->second) : std::vector<std::string>();
    for (const auto& [name, value] : set.items()) {
      const std::string key = kind.group + "." + name;
      if (!is_chosen)
        refuse(key, value, usual.at(name),
               fmt::format("belongs to aggregator {}; {} would ignore it", kind.name, options.aggregator));
      if (std::find(unused.begin(), unused.end(), name) != unused.end())
        refuse(key, value, usual.at(name), "has no effect beside the other options of the group");
    }
  }
  const nlohmann::json set = to_json(options.partition), usual = to_json(defaults.partition);
  for (const detail::PartitionKind& kind : detail::partition_kinds()) {
    if (options.partition.kind == kind.name) continue;
    for (const std::string& name : kind.options)
      refuse("partition." + name, set.at(name), usual.at(name),
             fmt::format("is for partition.kind {}; {} would ignore it", kind.name, options.partition.kind));
  }
}

void check_train(const TrainOptions& train, ErrorList& errors, const std::string& where) {
  const TrainOptions defaults;
  const auto unused = [&](bool is_set, const char* key, const char* hint) {
    if (is_set)
      errors.add(fmt::format("{}: train.{}", where, key), "has no meaning for a client's round", hint);
  };
  unused(train.stop_at != defaults.stop_at, "stop_at", "federated.stop_at pauses after a round");
  unused(train.eval_every != defaults.eval_every, "eval_every", "federated.eval_every counts rounds");
  unused(train.save_every != defaults.save_every, "save_every", "every round is saved");
  unused(train.early_stopping_patience != defaults.early_stopping_patience, "early_stopping_patience",
         "remove it");
}

}  // namespace

namespace detail {

void check_federated_options(const FederatedOptions& options, const AdapterConfig& adapter,
                             const TrainOptions& train, ErrorList& errors, const std::string& where) {
  const auto at = [&](const char* key) { return fmt::format("{}: federated.{}", where, key); };
  const size_t before = errors.size();
  AggregatorTraits traits;
  try {
    traits = aggregator_kind(options.aggregator).traits;
  } catch (const Error& error) {
    errors.add(error.where(), error.message(), error.hint());
  }
  if (errors.size() == before) check_method(options, adapter, traits, errors, where);
  check_ranks(options, adapter, traits, errors, where);
  check_train(train, errors, where);
  check_unused(options, errors, where);
  if (options.min_clients > options.clients) {
    errors.add(at("min_clients"), fmt::format("{} of {} clients", options.min_clients, options.clients));
  }
  if (options.stop_at > options.rounds) {
    errors.add(at("stop_at"),
               fmt::format("{} lies behind federated.rounds = {}", options.stop_at, options.rounds));
  }
}

}  // namespace detail

void check_recipe(const FederateRecipe& recipe, ErrorList& errors, const std::string& where) {
  check_recipe(static_cast<const Recipe&>(recipe), errors, where);
  if (!recipe.train.samples.prompts.empty())
    errors.add(where + ": train.samples.prompts", "samples are written by `train` alone", "remove them");
  detail::check_federated_options(recipe.federated, recipe.adapter, recipe.train, errors, where);
  if (!recipe.adapter.init_from.empty()) {
    errors.add(where + ": adapter.init_from",
               "clients start from the server's own message; only `train` goes on");
  }
  const std::string& kind = recipe.federated.partition.kind;
  const detail::PartitionKind* const known = detail::find_partition_kind(kind);
  const detail::PartitionNeed needs = known ? known->needs : detail::PartitionNeed::kNothing;
  if (needs == detail::PartitionNeed::kLabels && task_kind(recipe.task.type).labels != LabelKind::kClass) {
    errors.add(where + ": federated.partition.kind", fmt::format("`{}` needs class labels", kind),
               "iid or groups");
  }
  const bool needs_groups = needs == detail::PartitionNeed::kGroups;
  if (needs_groups && !recipe.data.group) {
    errors.add(where + ": data.group", fmt::format("missing; partition.kind `{}` needs the column", kind));
  }
  if (!needs_groups && recipe.data.group) {
    errors.add(where + ": data.group", fmt::format("not used by partition.kind `{}`", kind),
               "federated.partition.kind: groups");
  }
}

nlohmann::json recipe_to_json(const FederateRecipe& recipe) {
  return to_json(recipe);
}

}  // namespace msplora
