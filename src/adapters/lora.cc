// LoRA (Hu et al., arXiv 2106.09685) as PEFT computes it: y += scaling B A dropout(x), scaling = alpha / r.
#include <fmt/format.h>

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "adapters/target_modules.h"

namespace msplora::detail {
namespace {

void check_options(const AdapterConfig& config, ErrorList& errors) {
  const auto only_msplora = [&](bool is_set, const char* name) {
    if (is_set) {
      errors.add(std::string("adapter.") + name, "belongs to method msplora; lora would ignore it",
                 "rank, alpha and dropout are those of lora");
    }
  };
  only_msplora(!config.ranks.empty(), "ranks");
  only_msplora(!config.alphas.empty(), "alphas");
  only_msplora(!config.dropouts.empty(), "dropouts");
  only_msplora(config.stagewise, "stagewise");
  only_msplora(!config.stage_fractions.empty(), "stage_fractions");
}

/// Every pattern must be a regular expression, and one that matches no targeted module is a typing error.
template <typename T>
bool check_patterns(const char* name, const std::map<std::string, T>& patterns,
                    const std::vector<Site>& sites, bool strict, ErrorList& errors) {
  bool valid = true;
  for (const auto& [pattern, value] : patterns) {
    try {
      bool used = false;
      for (const Site& site : sites) used = used || matches_pattern(pattern, site.path);
      if (!used && strict && !sites.empty()) {
        errors.add(
            fmt::format("adapter.{}", name),
            fmt::format("`{}` matches no targeted module, for example {}", pattern, sites.front().path),
            "a pattern is matched against the end of the path, from a dot on");
      }
    } catch (const std::invalid_argument& error) {
      errors.add(fmt::format("adapter.{}", name), error.what());
      valid = false;
    }
  }
  return valid;
}

LowRankLayout lora_layout(const AdapterConfig& config, const std::vector<Site>& sites) {
  LowRankLayout layout;
  layout.plan = separate_plan(sites);
  for (const ShareGroup& group : layout.plan.groups) {
    const std::string& path = sites[group.owner].path;
    const int64_t rank = pattern_value(config.rank_pattern, path, config.rank);
    const double alpha = pattern_value(config.alpha_pattern, path, config.alpha);
    layout.factors.push_back({rank, scaling_of(alpha, rank, config.use_rslora), config.dropout,
                              path + ".lora_A.weight", path + ".lora_B.weight"});
  }
  return layout;
}

std::vector<TensorSpec> lora_tensors(const PlanInput& input, ErrorList& errors) {
  check_options(input.config, errors);
  const bool ranks_valid =
      check_patterns("rank_pattern", input.config.rank_pattern, input.sites, input.check_ranks, errors);
  const bool alphas_valid =
      check_patterns("alpha_pattern", input.config.alpha_pattern, input.sites, input.check_ranks, errors);
  if (!ranks_valid || !alphas_valid) return {};
  const LowRankLayout layout = lora_layout(input.config, input.sites);
  if (input.check_ranks) {
    std::map<int64_t, std::vector<Site>> by_rank;
    for (size_t i = 0; i < layout.factors.size(); ++i) {
      by_rank[layout.factors[i].rank].push_back(input.sites[layout.plan.groups[i].owner]);
    }
    for (const auto& [rank, sites] : by_rank) {
      check_rank(rank == input.config.rank ? "adapter.rank" : "adapter.rank_pattern", rank, sites, errors);
    }
  }
  return layout.tensors(input.sites);
}

}  // namespace

Method lora_method() {
  return {{"lora", "One pair of low-rank factors per module (Hu et al. 2021)"},
          true,
          lora_tensors,
          [](MethodInput in) {
            LowRankLayout layout = lora_layout(in.config, in.sites);
            return std::make_unique<LowRankAdapter>(std::move(in), std::move(layout));
          }};
}

}  // namespace msplora::detail
