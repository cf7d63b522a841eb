#include "adapters/glora_plan.h"

#include <fmt/format.h>

#include <cmath>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "adapters/config_checks.h"
#include "adapters/low_rank.h"

namespace msplora::detail {
namespace {

/// Bound of the uniform Xu [r, columns]: that of the authors' search (Xavier), or of PEFT's fixed choices
/// (Kaiming with a = sqrt 5).
double up_bound(const AdapterConfig& config, int64_t columns) {
  const auto n = static_cast<double>(columns), r = static_cast<double>(config.rank);
  return config.own<GloraOptions>().search ? std::sqrt(6.0 / (r + n)) : 1.0 / std::sqrt(n);
}

void check_search(const AdapterConfig& config, ErrorList& errors) {
  const GloraOptions& o = config.own<GloraOptions>();
  const GloraOptions defaults;
  if (!o.search) {
    if (o.tune_fraction > 0) {
      errors.add("adapter.glora.tune_fraction", "has no effect without a search",
                 "adapter.glora.search: true");
    }
    return;
  }
  const std::tuple<const char*, const std::string&, const std::string&> choices[] = {
      {"choice_a", o.choice_a, defaults.choice_a},
      {"choice_b", o.choice_b, defaults.choice_b},
      {"choice_c", o.choice_c, defaults.choice_c},
      {"choice_d", o.choice_d, defaults.choice_d},
      {"choice_e", o.choice_e, defaults.choice_e}};
  for (const auto& [name, value, plain] : choices) {
    if (value == plain) continue;
    errors.add(fmt::format("adapter.glora.{}", name), "has no effect, since the choices are searched",
               "adapter.glora.search: false");
  }
  if (o.parents > o.population) {
    errors.add("adapter.glora.parents", fmt::format("{}, but the population is {}", o.parents, o.population),
               fmt::format("at most {}", o.population));
  }
  if (o.min_parameters > o.max_parameters) {
    errors.add("adapter.glora.min_parameters",
               fmt::format("{} is above max_parameters, {}", o.min_parameters, o.max_parameters));
  }
}

void check_budget(const AdapterConfig& config, const std::vector<Site>& sites, ErrorList& errors) {
  if (!config.own<GloraOptions>().search) return;
  int64_t most = 0;
  for (const Site& site : sites) {
    const SiteSpace space = space_of(config, site);
    most += space.parameters(space.largest());
  }
  if (config.own<GloraOptions>().min_parameters > most) {
    errors.add("adapter.glora.min_parameters", fmt::format("{}, but all supports together have {} parameters",
                                                           config.own<GloraOptions>().min_parameters, most));
  }
}

}  // namespace

bool has_bias(const Site& site) {
  return site.linear != nullptr ? site.linear->bias.defined() : site.has_bias;
}

SiteSpace space_of(const AdapterConfig& config, const Site& site) {
  return site_space(site.in_features, site.out_features, config.rank, has_bias(site),
                    config.own<GloraOptions>().add_bias);
}

SiteChoice trained_choice(const AdapterConfig& config, const Site& site) {
  const SiteSpace space = space_of(config, site);
  SiteChoice choice = space.largest();
  if (config.own<GloraOptions>().search) return choice;
  const GloraOptions& o = config.own<GloraOptions>();
  const std::string* names[] = {&o.choice_a, &o.choice_b, &o.choice_c, &o.choice_d, &o.choice_e};
  for (size_t k = 0; k < choice.size(); ++k) {
    const bool is_possible = choice[k] != Support::kNone;
    choice[k] = is_possible ? support_from_name(*names[k]).value_or(Support::kNone) : Support::kNone;
  }
  return choice;
}

std::vector<SupportTensor> support_tensors(const AdapterConfig& config, const Site& site) {
  const SiteChoice choice = trained_choice(config, site);
  std::vector<SupportTensor> tensors;
  for (size_t k = 0; k < choice.size(); ++k) {
    const std::string name = fmt::format("{}.glora_{}", site.path, "ABCDE"[k]);
    const int64_t rows = k == kC ? site.in_features : site.out_features;
    const int64_t columns = k == kC ? 1 : site.in_features;
    const auto add = [&](const char* role, std::vector<int64_t> shape, double bound) {
      tensors.push_back(
          {{fmt::format("{}.{}", name, role), std::move(shape), 0, site.layer}, k, bound > 0.0, bound});
    };
    switch (choice[k]) {
      case Support::kLowRank:
        add("Xd", {rows, config.rank}, 0.0);
        add("Xu", {config.rank, columns}, up_bound(config, columns));
        break;
      case Support::kVector:
        add("X", k == kD || k == kE ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, 1}, 0.0);
        break;
      case Support::kConstant:
        add("X", {1}, 0.0);
        break;
      case Support::kNone:
        break;
    }
  }
  return tensors;
}

std::vector<TensorSpec> glora_tensors(const PlanInput& input, ErrorList& errors) {
  const AdapterConfig& config = input.config;
  check_search(config, errors);
  if (input.check_ranks) {
    check_rank("adapter.rank", config.rank, input.sites, errors);
    check_budget(config, input.sites, errors);
  }
  std::vector<TensorSpec> specs;
  for (const Site& site : input.sites) {
    for (SupportTensor& tensor : support_tensors(config, site)) specs.push_back(std::move(tensor.spec));
  }
  if (specs.empty() && !input.sites.empty()) {
    errors.add("adapter.glora", "the choices leave no support to train");
  }
  return specs;
}

}  // namespace msplora::detail
