// GeLoRA (arXiv 2412.09250): LoRA whose rank in each layer follows from the intrinsic dimensions of the
// hidden states before and behind it. The ranks are data by the time an adapter is made;
// eval/intrinsic_dimension.h estimates them.
#include "msplora/adapters/gelora.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>

#include "adapters/low_rank.h"
#include "adapters/method.h"

namespace msplora {

std::vector<int64_t> gelora_ranks(const std::vector<double>& dimensions, const GeLoraOptions& options) {
  std::vector<int64_t> ranks;
  for (size_t b = 0; b < dimensions.size(); ++b) {
    if (!std::isfinite(dimensions[b])) {
      throw Error(ErrorCode::kNumerics, "GeLoRA",
                  fmt::format("the intrinsic dimension behind layer {} is {}", b, dimensions[b]));
    }
    if (b == 0) continue;
    const double before = dimensions[b - 1], after = dimensions[b];
    double growth = after - before;
    if (options.rounding == "dimension") growth = std::round(after) - std::round(before);
    if (options.rounding == "difference") growth = std::round(growth);
    if (options.rounding == "up") growth = std::ceil(growth);
    const int64_t rank = std::max<int64_t>(static_cast<int64_t>(growth), 0) + 1;
    ranks.push_back(options.max_rank > 0 ? std::min(rank, options.max_rank) : rank);
  }
  return ranks;
}

namespace detail {
namespace {

/// Without ranks every layer counts with 1, the least that the rule can give.
int64_t rank_of_layer(const GeLoraOptions& options, int64_t layer) {
  return options.layer_ranks.empty() ? 1 : options.layer_ranks.at(static_cast<size_t>(layer));
}

LowRankLayout gelora_layout(const AdapterConfig& config, const std::vector<Site>& sites) {
  LowRankLayout layout;
  layout.plan = separate_plan(sites);
  for (const ShareGroup& group : layout.plan.groups) {
    const Site& site = sites[group.owner];
    const int64_t rank = rank_of_layer(config.own<GeLoraOptions>(), site.layer);
    layout.factors.push_back({rank, config.own<GeLoraOptions>().alpha_ratio, config.dropout,
                              site.path + ".lora_A.weight", site.path + ".lora_B.weight"});
  }
  return layout;
}

std::vector<TensorSpec> gelora_tensors(const PlanInput& input, ErrorList& errors) {
  const std::vector<int64_t>& ranks = input.config.own<GeLoraOptions>().layer_ranks;
  const size_t problems = errors.size();
  if (!ranks.empty() && static_cast<int64_t>(ranks.size()) != input.num_layers) {
    errors.add("adapter.gelora.layer_ranks",
               fmt::format("has {} entries, but the model has {} layers", ranks.size(), input.num_layers));
  }
  for (const Site& site : input.sites) {
    if (site.layer >= 0) continue;
    errors.add("adapter.target_modules",
               fmt::format("{} lies outside the layers, so gelora has no rank for it", site.path),
               "the paper adapts query, key, value and attention.output.dense");
  }
  if (errors.size() > problems) return {};
  const LowRankLayout layout = gelora_layout(input.config, input.sites);
  if (input.check_ranks) {
    std::map<int64_t, std::vector<Site>> by_rank;
    for (size_t i = 0; i < layout.factors.size(); ++i)
      by_rank[layout.factors[i].rank].push_back(input.sites[layout.plan.groups[i].owner]);
    for (const auto& [rank, sites] : by_rank) check_rank("adapter.gelora.layer_ranks", rank, sites, errors);
  }
  return layout.tensors(input.sites);
}

}  // namespace

Method gelora_method() {
  Method method;
  method.name = "gelora";
  method.summary = "LoRA with the rank of each layer from the intrinsic dimensions of hidden states (2024)";
  method.options = OptionGroup(GeLoraOptions(), "Options of method gelora");
  method.unused = {{"rank", "adapter.gelora.layer_ranks, or max_rank"},
                   {"alpha", "adapter.gelora.alpha_ratio"},
                   {"use_rslora", "adapter.gelora.alpha_ratio"}};
  method.tensors = gelora_tensors;
  method.create = [](MethodInput in) {
    if (in.config.own<GeLoraOptions>().layer_ranks.empty()) {
      throw Error(ErrorCode::kConfig, "adapter.gelora.layer_ranks", "not known yet",
                  "`train` estimates them from the training data, `inspect --profile` shows them");
    }
    LowRankLayout layout = gelora_layout(in.config, in.sites);
    return std::make_unique<LowRankAdapter>(std::move(in), std::move(layout));
  };
  method.line = [](const AdapterConfig& config) {
    const GeLoraOptions& o = config.own<GeLoraOptions>();
    return fmt::format("gelora, {}, scaling {}",
                       o.layer_ranks.empty()
                           ? fmt::format("ranks to be estimated from {} examples", o.samples)
                           : fmt::format("ranks {}", fmt::join(o.layer_ranks, " ")),
                       o.alpha_ratio);
  };
  method.ranks = [](const AdapterConfig& config, int64_t layer, int64_t) {
    return std::vector<int64_t>{rank_of_layer(config.own<GeLoraOptions>(), layer)};
  };
  method.settle_without_data = [](AdapterConfig& config, int64_t num_layers) {
    config.own<GeLoraOptions>().layer_ranks.assign(static_cast<size_t>(num_layers), config.rank);
    config.rank = AdapterConfig().rank;
  };
  method.is_unsettled = [](const AdapterConfig& config) {
    return config.own<GeLoraOptions>().layer_ranks.empty();
  };
  return method;
}

}  // namespace detail
}  // namespace msplora
