// PRILoRA (arXiv 2401.11316): LoRA with ranks that grow linearly from the first to the last layer,
//   r_l = r_first + (r_last - r_first) (l - 1) / (L - 1), rounded to the nearest,
// and A pruned by importance while it is trained: every K steps the entries of each row with the smallest
// |A_ij| n_j become zero, where n_j is a running mean of the norm of input j. No mask is kept: the next
// gradients may revive what was pruned.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <algorithm>
#include <cmath>
#include <map>

#include "adapters/initial.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"

namespace msplora::detail {
namespace {

struct PriloraOptions {
  std::optional<int64_t> first_rank;
  std::optional<int64_t> last_rank;
  std::string scaling = "rank";
  int64_t prune_every = 40;
  double prune_fraction = 0.5;
  double beta = 0.9;
  bool final_prune = false;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("first_rank", first_rank, "Rank of the first layer; unset: rank / 2, so that `rank` is the mean",
            at_least(1));
    visitor("last_rank", last_rank, "Rank of the last layer; unset: 2 rank - first_rank", at_least(1));
    visitor("scaling", scaling, "`rank`: alpha / r of the layer; `mean`: alpha / mean rank in all layers",
            one_of({"rank", "mean"}));
    visitor("prune_every", prune_every, "Optimizer steps between prunings of A; 0: never", at_least(0));
    visitor("prune_fraction", prune_fraction, "Share of each row of A that a pruning sets to zero",
            probability_below_one());
    visitor("beta", beta, "Decay of the running mean of the input norms", probability_below_one());
    visitor("final_prune", final_prune, "Prune once more after the last step");
  }
};

struct RankRange {
  int64_t first = 0, last = 0;
  double mean() const { return 0.5 * static_cast<double>(first + last); }
};

/// The end that is not given follows from `rank`, the mean.
RankRange rank_range(const AdapterConfig& config) {
  const PriloraOptions& o = config.own<PriloraOptions>();
  RankRange range;
  range.first = o.first_rank
                    ? *o.first_rank
                    : (o.last_rank ? 2 * config.rank - *o.last_rank : std::max<int64_t>(1, config.rank / 2));
  range.last = o.last_rank ? *o.last_rank : 2 * config.rank - range.first;
  return range;
}

/// Modules outside the layers take the mean.
int64_t linear_rank(const RankRange& range, int64_t layer, int64_t num_layers) {
  if (layer < 0) return std::llround(range.mean());
  if (num_layers < 2) return range.first;
  const double share = static_cast<double>(layer) / static_cast<double>(num_layers - 1);
  return std::llround(static_cast<double>(range.first) +
                      static_cast<double>(range.last - range.first) * share);
}

LowRankLayout prilora_layout(const AdapterConfig& config, const std::vector<Site>& sites,
                             int64_t num_layers) {
  for (const Site& site : sites) num_layers = std::max(num_layers, site.layer + 1);
  const RankRange range = rank_range(config);
  LowRankLayout layout;
  layout.plan = separate_plan(sites);
  for (const ShareGroup& group : layout.plan.groups) {
    const Site& site = sites[group.owner];
    const int64_t rank = linear_rank(range, site.layer, num_layers);
    const double divisor =
        config.own<PriloraOptions>().scaling == "mean" ? range.mean() : static_cast<double>(rank);
    layout.factors.push_back({rank, config.alpha / (config.use_rslora ? std::sqrt(divisor) : divisor),
                              config.dropout, site.path + ".lora_A.weight", site.path + ".lora_B.weight"});
  }
  return layout;
}

std::vector<TensorSpec> prilora_tensors(const PlanInput& input, ErrorList& errors) {
  const AdapterConfig& config = input.config;
  const RankRange range = rank_range(config);
  if (range.first < 1 || range.last < 1) {
    errors.add(
        config.own<PriloraOptions>().first_rank ? "adapter.prilora.first_rank" : "adapter.prilora.last_rank",
        fmt::format("{} leaves {} for the other end, since adapter.rank = {} is their mean",
                    config.own<PriloraOptions>().first_rank ? range.first : range.last,
                    config.own<PriloraOptions>().first_rank ? range.last : range.first, config.rank),
        "give both ends, or a larger rank");
    return {};
  }
  const LowRankLayout layout = prilora_layout(config, input.sites, input.num_layers);
  if (input.check_ranks) {
    std::map<int64_t, std::vector<Site>> by_rank;
    for (size_t i = 0; i < layout.factors.size(); ++i)
      by_rank[layout.factors[i].rank].push_back(input.sites[layout.plan.groups[i].owner]);
    for (const auto& [rank, sites] : by_rank) check_rank("adapter.prilora", rank, sites, errors);
  }
  return layout.tensors(input.sites);
}

class PriloraAdapter : public LowRankAdapter {
 public:
  PriloraAdapter(MethodInput input, LowRankLayout layout)
      : LowRankAdapter(std::move(input), std::move(layout)) {
    for (const Site& site : sites_) {
      input_norms_.push_back(at::zeros({site.in_features}, factor_options(site).dtype(at::kFloat)));
    }
    for (const at::Tensor& norms : input_norms_) observed_.push_back(norms.new_zeros({0, norms.size(0)}));
  }

  SiteUpdate update_of(size_t site_index) const override {
    SiteUpdate update;
    update.low_rank = terms(site_index);
    if (config_.own<PriloraOptions>().prune_every == 0) return update;
    update.observe_input = [this, site_index](const at::Tensor& x) {
      const c10::NoGradGuard no_grad;
      const at::Tensor squares = x.detach().to(at::kFloat).square().sum(0, /*keepdim=*/true);
      observed_[site_index] = at::cat({observed_[site_index], squares});
    };
    return update;
  }

  AdapterState state(const std::string& optimizer = {}) const override {
    AdapterState state = LowRankAdapter::state(optimizer);
    for (size_t i = 0; i < sites_.size(); ++i)
      state.tensors.push_back({sites_[i].path + ".input_norm", input_norms_[i]});
    return state;
  }

  StepPlan begin_step(const TrainingProgress&) override {
    for (at::Tensor& squares : observed_) squares = squares.narrow(0, 0, 0);
    return {};
  }

  std::vector<at::Tensor*> reduced_state() override {
    std::vector<at::Tensor*> tensors;
    for (at::Tensor& squares : observed_) tensors.push_back(&squares);
    return tensors;
  }

  void gradients_ready(const TrainingProgress&) override {
    const c10::NoGradGuard no_grad;
    const double beta = config_.own<PriloraOptions>().beta;
    for (size_t i = 0; i < observed_.size(); ++i) {
      // Not corrected for the start at 0: a common factor changes no order within a row.
      for (const at::Tensor& squares : observed_[i].unbind(0))
        input_norms_[i].mul_(beta).add_(squares.sqrt(), 1.0 - beta);
    }
  }

  void end_step(const TrainingProgress& progress, OptimizerControl&) override {
    const PriloraOptions& o = config_.own<PriloraOptions>();
    if (o.prune_every == 0) return;
    const bool is_last = progress.step == progress.total_steps;
    // What is pruned after the last step is never trained again, so that is done on request alone.
    if (is_last ? o.final_prune : progress.step % o.prune_every == 0) prune();
  }

 private:
  void prune() {
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < sites_.size(); ++i) {
      at::Tensor down = downs_[layout_.plan.group_of[i][0]];
      const auto count = static_cast<int64_t>(
          std::floor(config_.own<PriloraOptions>().prune_fraction * static_cast<double>(down.size(1))));
      if (count == 0) continue;
      const at::Tensor importance = down.abs() * input_norms_[i];
      const at::Tensor smallest = std::get<1>(at::topk(importance, count, /*dim=*/1, /*largest=*/false));
      down.scatter_(1, smallest, 0.0);
    }
  }

  // Parallel to sites(), float32:
  std::vector<at::Tensor> input_norms_;  // [in]
  /// Of this step, [micro-batches, in]: squared norms of the inputs. Forward passes write it.
  mutable std::vector<at::Tensor> observed_;
};

}  // namespace

Method prilora_method() {
  Method method;
  method.name = "prilora";
  method.summary = "Ranks growing from the first to the last layer, A pruned by importance (2024)";
  method.traits = {.lora_plus = true};
  method.options = OptionGroup(PriloraOptions(), "Options of method prilora");
  method.tensors = prilora_tensors;
  method.create = [](MethodInput in) {
    LowRankLayout layout = prilora_layout(in.config, in.sites, in.target.num_layers);
    return std::make_unique<PriloraAdapter>(std::move(in), std::move(layout));
  };
  method.ranks = [](const AdapterConfig& config, int64_t layer, int64_t num_layers) {
    return std::vector<int64_t>{linear_rank(rank_range(config), layer, num_layers)};
  };
  return method;
}

}  // namespace msplora::detail
