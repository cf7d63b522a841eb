// MSPLoRA (arXiv 2503.21838): a pyramid of low-rank updates, h = W0 x + sum_k s_k B_k A_k drop_k(x), whose
// first level is shared by all layers, whose middle levels are shared by groups of layers, and whose last
// belongs to each layer.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adapters/low_rank.h"
#include "adapters/method.h"

namespace msplora::detail {
namespace {

/// Ranks halve with floor from level to level; at most as many levels as stay above 0.
std::vector<int64_t> halved_ranks(int64_t rank, int64_t levels) {
  std::vector<int64_t> ranks;
  for (; rank > 0 && static_cast<int64_t>(ranks.size()) < levels; rank /= 2) ranks.push_back(rank);
  return ranks;
}

std::vector<int64_t> level_ranks(const AdapterConfig& config) {
  return config.ranks.empty() ? halved_ranks(config.rank, config.levels) : config.ranks;
}

template <typename T>
T level_value(const std::vector<T>& values, T common, size_t level) {
  return level < values.size() ? values[level] : common;
}

void check_levels(const AdapterConfig& config, const std::vector<int64_t>& ranks, ErrorList& errors) {
  const auto levels = static_cast<int64_t>(ranks.size());
  if (config.ranks.empty()) {
    if (levels < config.levels) {
      errors.add("adapter.levels",
                 fmt::format("rank {} halves into {} level{} ({}), but {} are asked for", config.rank, levels,
                             levels == 1 ? "" : "s", fmt::join(ranks, ", "), config.levels),
                 fmt::format("levels: {}, a larger rank, or explicit ranks", levels));
    }
    return;
  }
  // 3 is the default, so it may stand beside ranks of any number.
  if (config.levels != AdapterConfig().levels && config.levels != levels) {
    errors.add("adapter.levels", fmt::format("{}, but ranks has {} entries", config.levels, levels),
               "give one of the two");
  }
}

std::vector<UnusedOption> overridden_options(const AdapterConfig& config) {
  std::vector<UnusedOption> options;
  const auto add = [&](bool is_overridden, const char* name, const std::string& why, const char* hint) {
    if (is_overridden) options.push_back({name, hint, why});
  };
  const char* const kOne = "give one of the two";
  add(!config.ranks.empty(), "rank", "has no effect beside adapter.ranks", kOne);
  add(!config.alphas.empty(), "alpha", "has no effect beside adapter.alphas", kOne);
  add(!config.dropouts.empty(), "dropout", "has no effect beside adapter.dropouts", kOne);
  const size_t levels = level_ranks(config).size();
  const std::string no_mid =
      fmt::format("has no effect on {} level{}: none of them is a mid level", levels, levels == 1 ? "" : "s");
  add(levels < 3, "mid_groups", no_mid, "three levels or more");
  add(levels < 3, "layer_groups", no_mid, "three levels or more");
  return options;
}

/// Every layer has its group, and the number of groups is said once.
void check_groups(const PlanInput& input, ErrorList& errors) {
  const AdapterConfig& config = input.config;
  int64_t layers = input.num_layers;
  for (const Site& site : input.sites) layers = std::max(layers, site.layer + 1);
  const bool is_default = config.mid_groups == AdapterConfig().mid_groups;
  if (input.check_ranks && !is_default && config.mid_groups > layers) {
    errors.add("adapter.mid_groups",
               fmt::format("{} groups, but the model has {} layers", config.mid_groups, layers),
               fmt::format("1 to {}", layers));
  }
  if (config.layer_groups.empty()) return;
  const auto count = static_cast<int64_t>(config.layer_groups.size());
  if (count != layers) {
    errors.add("adapter.layer_groups", fmt::format("has {} entr{}, but the model has {} layers", count,
                                                   count == 1 ? "y" : "ies", layers));
  }
  if (config.mid_groups != AdapterConfig().mid_groups) {
    errors.add("adapter.mid_groups", "adapter.layer_groups says which layers share", "give one of the two");
  }
}

void check_counts(const AdapterConfig& config, size_t levels, ErrorList& errors) {
  const auto check = [&](const char* name, size_t count) {
    if (count != 0 && count != levels) {
      errors.add(std::string("adapter.") + name, fmt::format("has {} entr{}, but there are {} levels", count,
                                                             count == 1 ? "y" : "ies", levels));
    }
  };
  check("alphas", config.alphas.size());
  check("dropouts", config.dropouts.size());
  check("stage_fractions", config.stage_fractions.size());
  if (config.stage_fractions.empty()) return;
  if (!config.stagewise) errors.add("adapter.stage_fractions", "has no effect without stagewise: true");
  double sum = 0.0;
  for (const double fraction : config.stage_fractions) sum += fraction;
  if (!(std::abs(sum - 1.0) <= 1e-6)) {
    errors.add("adapter.stage_fractions", fmt::format("must sum to 1, but sum to {}", sum));
  }
}

LowRankLayout msplora_layout(const AdapterConfig& config, const std::vector<Site>& sites,
                             int64_t num_layers) {
  const std::vector<int64_t> ranks = level_ranks(config);
  LowRankLayout layout;
  layout.plan = pyramid_plan(sites, num_layers, static_cast<int64_t>(ranks.size()), config.mid_groups,
                             config.layer_groups);
  layout.plan.owner_only = config.sharing == "owner_only";
  for (const ShareGroup& group : layout.plan.groups) {
    const auto level = static_cast<size_t>(group.level);
    const std::string& path = sites[group.owner].path;
    layout.factors.push_back(
        {ranks[level],
         scaling_of(level_value(config.alphas, config.alpha, level), ranks[level], config.use_rslora),
         level_value(config.dropouts, config.dropout, level), fmt::format("{}.lora_A.{}.weight", path, level),
         fmt::format("{}.lora_B.{}.weight", path, level)});
  }
  return layout;
}

std::vector<TensorSpec> msplora_tensors(const PlanInput& input, ErrorList& errors) {
  const AdapterConfig& config = input.config;
  const std::vector<int64_t> ranks = level_ranks(config);
  const size_t problems = errors.size();
  check_levels(config, ranks, errors);
  check_counts(config, ranks.size(), errors);
  check_groups(input, errors);
  if (input.check_ranks && !ranks.empty()) {
    const int64_t largest = *std::max_element(ranks.begin(), ranks.end());
    check_rank(config.ranks.empty() ? "adapter.rank" : "adapter.ranks", largest, input.sites, errors);
  }
  if (errors.size() > problems) return {};
  return msplora_layout(config, input.sites, input.num_layers).tensors(input.sites);
}

class MsploraAdapter : public LowRankAdapter {
 public:
  using LowRankAdapter::LowRankAdapter;

  /// global, mid, layer; further ones between them are mid 1, mid 2, ...
  std::vector<std::string> level_names() const override {
    const int64_t levels = layout_.plan.levels;
    std::vector<std::string> names = {"global"};
    for (int64_t level = 1; level + 1 < levels; ++level)
      names.push_back(levels == 3 ? "mid" : fmt::format("mid {}", level));
    if (levels > 1) names.emplace_back("layer");
    return names;
  }

  /// Stage k trains level k alone; it lasts while progress is in [f_0+..+f_{k-1}, f_0+..+f_k).
  StepPlan begin_step(const TrainingProgress& progress) override {
    StepPlan plan;
    if (!config_.stagewise) return plan;
    if (progress.step == 0) check_stages(progress);
    const int64_t active = stage(progress);
    for (const TrainableTensor& entry : trainable()) {
      if (entry.group == ParameterGroup::kAdapter && entry.level != active) plan.frozen.insert(entry.name);
    }
    return plan;
  }

 private:
  void check_stages(const TrainingProgress& progress) const {
    std::set<int64_t> stages;
    for (int64_t step = 0; step < progress.total_steps; ++step)
      stages.insert(stage({step, progress.total_steps}));
    if (static_cast<int64_t>(stages.size()) >= layout_.plan.levels) return;
    throw Error(ErrorCode::kConfig, "adapter.stagewise",
                fmt::format("{} steps for {} levels: {} of the levels would get none", progress.total_steps,
                            layout_.plan.levels, layout_.plan.levels - static_cast<int64_t>(stages.size())),
                "more steps, or other adapter.stage_fractions");
  }

  int64_t stage(const TrainingProgress& progress) const {
    const int64_t levels = layout_.plan.levels;
    if (progress.total_steps <= 0) return 0;
    if (config_.stage_fractions.empty()) {
      return std::min(levels * progress.step / progress.total_steps, levels - 1);
    }
    const double done = static_cast<double>(progress.step) / static_cast<double>(progress.total_steps);
    double end = 0.0;
    for (int64_t k = 0; k < levels - 1; ++k) {
      end += config_.stage_fractions[static_cast<size_t>(k)];
      // A bound that is one rounding away from a step belongs to that step.
      if (done < end - 1e-9) return k;
    }
    return levels - 1;
  }
};

std::string msplora_line(const AdapterConfig& config) {
  const std::vector<int64_t> ranks = level_ranks(config);
  const std::string alpha = config.alphas.empty() ? fmt::format("{}", config.alpha)
                                                  : fmt::format("{}", fmt::join(config.alphas, " "));
  return fmt::format("msplora, {} levels, ranks {}, alpha {}, sharing {}{}{}", ranks.size(),
                     fmt::join(ranks, " "), alpha, config.sharing,
                     config.dropout > 0 ? fmt::format(", dropout {}", config.dropout) : "",
                     config.stagewise ? ", one level after the other" : "");
}

}  // namespace

Method msplora_method() {
  Method method;
  method.name = "msplora";
  method.summary = "A pyramid of factors: shared by all layers, by groups of layers, and by none (2025)";
  method.traits = {.pairs = FactorPairs::kShared, .lora_plus = true, .levels = true, .words = true};
  method.overridden = overridden_options;
  method.tensors = msplora_tensors;
  method.create = [](MethodInput in) {
    LowRankLayout layout = msplora_layout(in.config, in.sites, in.target.num_layers);
    return std::make_unique<MsploraAdapter>(std::move(in), std::move(layout));
  };
  method.line = msplora_line;
  method.ranks = [](const AdapterConfig& config, int64_t, int64_t) { return level_ranks(config); };
  method.check_run = [](const AdapterConfig& config, const RunFacts& run, ErrorList& errors) {
    const auto levels = static_cast<int64_t>(level_ranks(config).size());
    if (!config.stagewise || !run.steps || *run.steps >= levels) return;
    errors.add("adapter.stagewise",
               fmt::format("{} steps for {} levels: a level would get none", *run.steps, levels),
               "more epochs, or smaller batches");
  };
  return method;
}

}  // namespace msplora::detail
