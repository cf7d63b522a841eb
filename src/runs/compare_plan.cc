#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "msplora/adapters/planning.h"
#include "msplora/core/option_io.h"
#include "msplora/runs/compare.h"

namespace msplora {
namespace {

std::vector<std::string> known_methods() {
  std::vector<std::string> names;
  for (const MethodInfo& method : adapter_methods()) names.push_back(method.name);
  return names;
}

std::vector<std::string> known_names(const CompareOptions& options) {
  std::vector<std::string> names = known_methods();
  for (const auto& variant : options.variants) names.push_back(variant.first);
  return names;
}

void check_name(const std::string& key, const std::string& name, const std::vector<std::string>& known,
                ErrorList& errors) {
  if (std::find(known.begin(), known.end(), name) != known.end()) return;
  const std::string nearest = did_you_mean(name, known);
  errors.add(key, fmt::format("unknown method `{}`", name),
             nearest.empty() ? fmt::format("known: {}", fmt::join(known, ", ")) : nearest);
}

std::vector<std::string> wanted_methods(const CompareOptions& options, ErrorList& errors) {
  const std::vector<std::string> known = known_names(options);
  if (options.methods.size() == 1 && options.methods.front() == "all") return known;
  std::set<std::string> seen;
  for (const std::string& name : options.methods) {
    check_name("compare.methods", name, known, errors);
    if (!seen.insert(name).second) errors.add("compare.methods", fmt::format("`{}` is named twice", name));
  }
  if (options.methods.empty()) errors.add("compare.methods", "is empty", "for example [msplora, lora, none]");
  return options.methods;
}

/// The name is a directory below `runs` too.
void check_variant(const std::string& name, ErrorList& errors) {
  const std::string where = "compare.variants." + name;
  const std::vector<std::string> methods = known_methods();
  if (name == "all" || std::find(methods.begin(), methods.end(), name) != methods.end())
    errors.add(where, "is a name that is taken", "choose another one, for example my-" + name);
  const bool is_plain =
      !name.empty() && name.front() != '.' && std::all_of(name.begin(), name.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == '+';
      });
  if (!is_plain)
    errors.add(where, "a name has letters, digits and - _ . + alone, and does not begin with a dot");
}

/// The method that a variant is made out of; of a method itself, it.
std::string method_of(const CompareRecipe& common, const std::string& name) {
  const auto variant = common.compare.variants.find(name);
  if (variant == common.compare.variants.end()) return name;
  Recipe recipe = common;
  ErrorList told_by_recipe_of;
  for (const std::string& text : variant->second) {
    if (text.starts_with("adapter.method=")) apply_override(recipe, text, told_by_recipe_of);
  }
  return recipe.adapter.method;
}

/// The options of one method or variant with the settings of its own.
Recipe recipe_of(const CompareRecipe& common, const std::string& name, ErrorList& errors) {
  Recipe recipe = common;
  const std::string method = method_of(common, name);
  const bool is_variant = common.compare.variants.contains(name);
  const std::string where = fmt::format("compare.{}.{}", is_variant ? "variants" : "settings", name);
  const std::vector<std::string> methods = known_methods();
  if (std::find(methods.begin(), methods.end(), method) == methods.end()) {
    check_name(where, method, methods, errors);
    return recipe;
  }
  recipe.adapter = config_for_method(recipe.adapter, method);
  const auto& all = is_variant ? common.compare.variants : common.compare.settings;
  if (const auto settings = all.find(name); settings != all.end()) {
    for (const std::string& text : settings->second) apply_override(recipe, text, errors);
    if (recipe.adapter.method == method) recipe.adapter = without_overridden(recipe.adapter, common.adapter);
  }
  if (recipe.adapter.method != method) errors.add(where, "changes adapter.method itself");
  if (!common.compare.lr_grid.empty() && recipe.train.lr != common.train.lr) {
    errors.add(where, "sets train.lr, which compare.lr_grid decides", "add the rate to compare.lr_grid");
  }
  if (recipe.train.seed != common.train.seed || recipe.output.dir != common.output.dir) {
    errors.add(where, "sets train.seed or output.dir, which the comparison decides");
  }
  recipe.output.save_native = true;  // its size is compared
  recipe.output.overwrite = false;
  return recipe;
}

/// Counts of one configuration on the base; unset where the options do not fit, with the reason in `problem`.
std::optional<int64_t> count_of(const AdapterConfig& config, const ComparisonBase& base,
                                std::string& problem) {
  try {
    return count_parameters(config, base.sites, base.num_layers, base.heads, kDefaultHeadModules,
                            base.parameters)
        .total;
  } catch (const Error& error) {
    problem = error.what();
    return std::nullopt;
  }
}

/// Looks for the rank with the count nearest to `wanted`. Counts grow with the rank; the ranks that a method
/// takes have a beginning (levels halve it) and perhaps an end (the width of a layer), with gaps of one
/// between (even ranks alone).
class RankSearch {
 public:
  RankSearch(AdapterConfig config, const ComparisonBase& base, int64_t wanted)
      : config_(std::move(config)), base_(base), wanted_(wanted) {}

  /// Unset where the rank changes nothing. Of two equally near, the smaller.
  std::optional<int64_t> nearest() {
    int64_t low = 0, high = 1;
    while (high < kLargest && is_below(high)) {
      low = high;
      high *= 2;
    }
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (is_below(middle) ? low : high) = middle;
    }
    if (counts_.size() == 1) is_below(2 * counts_.begin()->first);  // one alone says nothing of others
    const auto changes = [&](const auto& entry) { return entry.second != counts_.begin()->second; };
    if (std::none_of(counts_.begin(), counts_.end(), changes)) return std::nullopt;
    int64_t best = counts_.begin()->first;
    for (const auto& [rank, count] : counts_) {
      if (std::abs(count - wanted_) < std::abs(counts_.at(best) - wanted_)) best = rank;
    }
    return best;
  }

 private:
  static constexpr int64_t kLargest = int64_t{1} << 32;

  /// Whether the rank, or the next one where it is not taken, has too few parameters.
  bool is_below(int64_t first) {
    for (const int64_t rank : {first, first + 1}) {
      config_.rank = rank;
      std::string ignored;
      if (const auto count = count_of(config_, base_, ignored)) {
        const bool is_constant = counts_.size() > 1 && counts_.begin()->second == *count;
        counts_[rank] = *count;
        return *count < wanted_ && !is_constant;
      }
    }
    return counts_.empty() || first < counts_.begin()->first;
  }

  AdapterConfig config_;
  const ComparisonBase& base_;
  const int64_t wanted_;
  std::map<int64_t, int64_t> counts_;  // of the ranks looked at
};

bool rank_matters(const PlannedMethod& method, const ComparisonBase& base) {
  AdapterConfig config = method.recipe.adapter;
  for (const int64_t rank : {config.rank + 1, config.rank * 2, config.rank - 1, config.rank / 2}) {
    if (rank < 1) continue;
    config.rank = rank;
    std::string ignored;
    const auto count = count_of(config, base, ignored);
    if (count) return *count != method.parameters;
  }
  return false;
}

std::vector<double> sorted_rates(const CompareRecipe& recipe, ErrorList& errors) {
  std::vector<double> rates = recipe.compare.lr_grid;
  std::sort(rates.begin(), rates.end());
  if (std::adjacent_find(rates.begin(), rates.end()) != rates.end()) {
    errors.add("compare.lr_grid", "names a rate twice");
  }
  return rates;
}

/// The number that the others are measured by. The reference need not be among the methods compared.
std::optional<int64_t> count_reference(const CompareRecipe& recipe, const ComparisonBase& base,
                                       ErrorList& errors) {
  const size_t problems = errors.size();
  check_name("compare.reference", recipe.compare.reference, known_names(recipe.compare), errors);
  if (errors.size() > problems) return std::nullopt;
  ErrorList reported_with_the_method;
  const Recipe reference = recipe_of(recipe, recipe.compare.reference, reported_with_the_method);
  std::string problem;
  const auto count = count_of(reference.adapter, base, problem);
  if (!count) errors.add("compare.reference", problem);
  if (count && *count == 0 && recipe.compare.mode == "equal-parameters") {
    errors.add("compare.reference",
               fmt::format("`{}` has no parameters to be matched", recipe.compare.reference),
               "for example lora");
  }
  return count;
}

void choose_rank(PlannedMethod& method, const ComparisonBase& base, int64_t wanted) {
  AdapterConfig& config = method.recipe.adapter;
  if (const auto rank = RankSearch(config, base, wanted).nearest()) config.rank = *rank;
}

}  // namespace

void check_recipe(const CompareRecipe& recipe, ErrorList& errors, const std::string& where) {
  check_recipe(static_cast<const Recipe&>(recipe), errors, where);
  const CompareOptions& compare = recipe.compare;
  if (!recipe.adapter.init_from.empty()) {
    errors.add(where + ": adapter.init_from",
               "methods are compared from their own starts; only `train` goes on");
  }
  if (recipe.train.stop_at > 0) errors.add(where + ": train.stop_at", "runs of a comparison go to their end");
  if (recipe.train.seed != TrainOptions().seed) {
    errors.add(where + ": train.seed", "every method has the seeds 1, 2, ...", "compare.seeds says how many");
  }
  // Those of methods that are left out this time (--methods) may stay.
  const std::vector<std::string> methods = known_methods();
  for (const auto& [method, settings] : compare.settings)
    check_name(where + ": compare.settings", method, methods, errors);
  for (const auto& [name, settings] : compare.variants) check_variant(name, errors);
}

std::vector<double> ComparisonPlan::rates_of(const PlannedMethod& method) const {
  return rates.empty() ? std::vector<double>{method.recipe.train.lr} : rates;
}

PlannedRun ComparisonPlan::run(const PlannedMethod& method, double rate, int64_t seed) const {
  PlannedRun run;
  run.method = method.method;
  run.lr = rate;
  run.seed = seed;
  run.name = fmt::format("{}/lr-{}-seed-{}", method.method, rate, seed);
  run.recipe = method.recipe;
  run.recipe.train.lr = rate;
  // The head is all that there is to tune.
  if (method.parameters == 0 && !rates.empty()) run.recipe.train.head_lr = rate;
  run.recipe.train.seed = seed;
  run.recipe.output.dir = fmt::format("{}/runs/{}", directory, run.name);
  return run;
}

ComparisonBase comparison_base(const ModelConfig& config) {
  const Architecture architecture = describe(config, ModelTask::kSequenceClassification);
  return {config.model_type,
          sites_of_shape(architecture),
          architecture.num_layers(),
          {architecture.heads(), architecture.kv_heads()},
          parameters_of_shape(config, ModelTask::kSequenceClassification)};
}

ComparisonPlan plan_comparison(const CompareRecipe& given, const ComparisonBase& base) {
  CompareRecipe recipe = given;
  recipe.adapter = with_default_targets(recipe.adapter, base.model_type);
  ErrorList errors;
  ComparisonPlan plan;
  plan.options = recipe.compare;
  plan.directory = recipe.output.dir;
  plan.rates = sorted_rates(recipe, errors);
  plan.options.methods = wanted_methods(recipe.compare, errors);
  errors.throw_if_any(ErrorCode::kConfig, "compare");
  const auto wanted = count_reference(recipe, base, errors);
  for (const std::string& name : plan.options.methods) {
    PlannedMethod method;
    method.method = name;
    const size_t problems = errors.size();
    method.recipe = recipe_of(recipe, name, errors);
    if (errors.size() > problems) continue;
    if (recipe.compare.mode == "equal-parameters" && wanted && name != recipe.compare.reference) {
      choose_rank(method, base, *wanted);
    }
    std::string problem;
    const auto count = count_of(method.recipe.adapter, base, problem);
    if (!count) {
      errors.add(
          fmt::format("method {}", name), problem,
          fmt::format("compare.settings: {{{}: [adapter.KEY=VALUE]}} sets options of one method", name));
      continue;
    }
    method.parameters = *count;
    method.has_rank = rank_matters(method, base);
    plan.methods.push_back(std::move(method));
  }
  errors.throw_if_any(ErrorCode::kConfig, "compare");
  plan.reference_parameters = *wanted;
  return plan;
}

}  // namespace msplora
