// LoRA (Hu et al., arXiv 2106.09685) as PEFT computes it: y += scaling B A dropout(x), scaling = alpha / r;
// with the initialisations of initial_factors.h and DoRA's magnitudes (dora.h).
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <cstdint>
#include <utility>

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "adapters/dora.h"
#include "adapters/initial_factors.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "adapters/peft_config.h"
#include "adapters/target_modules.h"

namespace msplora::detail {
namespace {

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

}  // namespace

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

namespace {

std::string magnitude_name(const Site& site) {
  return fmt::format("{}.lora_magnitude_vector", site.path);
}

void check_ranks(const PlanInput& input, const LowRankLayout& layout, ErrorList& errors) {
  std::map<int64_t, std::vector<Site>> by_rank;
  for (size_t i = 0; i < layout.factors.size(); ++i) {
    by_rank[layout.factors[i].rank].push_back(input.sites[layout.plan.groups[i].owner]);
  }
  for (const auto& [rank, sites] : by_rank) {
    const char* where = rank == input.config.rank ? "adapter.rank" : "adapter.rank_pattern";
    check_rank(where, rank, sites, errors);
    if (input.config.init == "orthogonal" && rank % 2 != 0) {
      errors.add(where, fmt::format("rank {} is odd, but init `orthogonal` splits it in two", rank),
                 fmt::format("{} or {}", rank - 1, rank + 1));
    }
  }
}

}  // namespace

std::vector<TensorSpec> lora_tensors(const PlanInput& input, ErrorList& errors) {
  const bool ranks_valid =
      check_patterns("rank_pattern", input.config.rank_pattern, input.sites, input.check_ranks, errors);
  const bool alphas_valid =
      check_patterns("alpha_pattern", input.config.alpha_pattern, input.sites, input.check_ranks, errors);
  if (!ranks_valid || !alphas_valid) return {};
  const LowRankLayout layout = lora_layout(input.config, input.sites);
  if (input.check_ranks) check_ranks(input, layout, errors);
  std::vector<TensorSpec> tensors = layout.tensors(input.sites);
  if (input.config.use_dora) {
    for (const Site& site : input.sites)
      tensors.push_back({magnitude_name(site), {site.out_features}, 0, site.layer});
  }
  return tensors;
}

namespace {

/// The update of one module: s B A, less s B0 A0 where the factors began as parts of the weight.
struct SiteFactors {
  LowRankTerm term;
  at::Tensor down_start, up_start;  // undefined for other initialisations

  /// B A - B0 A0 = (B - B0) A + B0 (A - A0): exactly 0 at the start, and small differences survive rounding
  /// to a compute type of few digits. Dropout acts on the whole change, never on the weight's own part.
  std::vector<LowRankTerm> change() const {
    if (!down_start.defined()) return {term};
    LowRankTerm by_up = term, by_down = term;
    by_up.up = term.up - up_start;
    by_down.up = up_start;
    by_down.down = term.down - down_start;
    return {by_up, by_down};
  }
};

class LoraAdapter : public LowRankAdapter {
 public:
  LoraAdapter(MethodInput input, LowRankLayout layout) : LowRankAdapter(std::move(input), std::move(layout)) {
    const c10::NoGradGuard no_grad;
    if (is_weight_init(config_.init)) {
      for (size_t i = 0; i < sites_.size(); ++i) {
        const LowRankTerm term = LowRankAdapter::terms(i).front();
        down_starts_.push_back(term.down.detach().clone());
        up_starts_.push_back(term.up.detach().clone());
      }
    }
    if (!config_.use_dora) return;
    for (size_t i = 0; i < sites_.size(); ++i) {
      if (sites_[i].linear == nullptr) {  // of a file, whose values follow
        magnitudes_.push_back(
            add_trainable(magnitude_name(sites_[i]), at::zeros(sites_[i].out_features, at::kFloat)));
        continue;
      }
      const at::Tensor weight = sites_[i].linear->weight->values();
      magnitudes_.push_back(add_trainable(magnitude_name(sites_[i]),
                                          row_norms(weight, row_squares(weight), factors(i).change())));
    }
  }

  /// What a file of PEFT holds: one LoRA of rank 2r where a part of the weight is subtracted.
  std::vector<LowRankTerm> terms(size_t site_index) const override {
    const SiteFactors f = factors(site_index);
    if (!f.down_start.defined()) return {f.term};
    return {f.term, {f.down_start, -f.up_start, f.term.scaling, 0.0, 0}};
  }

  /// All are of one level: what is subtracted of a start is no level of its own.
  std::vector<size_t> levels_of_terms(size_t site_index) const override {
    return Adapter::levels_of_terms(site_index);
  }

  /// g = m / n, and g - 1 of the weight's rows.
  WeightScaling weight_scaling(size_t site_index) const override {
    if (!config_.use_dora) return {};
    const c10::NoGradGuard no_grad;
    const Site& site = sites_.at(site_index);
    if (site.linear == nullptr)
      throw Error(ErrorCode::kUsage, site.path, "DoRA's gain is that of rows of the base's weight");
    const at::Tensor weight = site.linear->weight->values().to(at::kDouble);
    std::vector<LowRankTerm> change = factors(site_index).change();
    for (LowRankTerm& term : change) {
      term.down = term.down.to(at::kDouble);
      term.up = term.up.to(at::kDouble);
    }
    WeightScaling scaling;
    scaling.gain = magnitudes_[site_index].to(at::kDouble) / row_norms(weight, row_squares(weight), change);
    scaling.left = (scaling.gain - 1.0).unsqueeze(1);
    scaling.right = at::ones({1, site.in_features}, at::kDouble);
    return scaling;
  }

  SiteUpdate update_of(size_t site_index) const override {
    SiteUpdate update;
    const SiteFactors f = factors(site_index);
    if (f.down_start.defined()) {
      update.computed_low_rank = [f] { return f.change(); };
    } else {
      update.low_rank = {f.term};
    }
    if (config_.use_dora) {
      update.transform_output = [f, magnitude = magnitudes_[site_index],
                                 norms = std::make_shared<RowNorms>(*sites_[site_index].linear->weight)](
                                    const Linear& layer, const at::Tensor& x, const at::Tensor& y,
                                    const ForwardContext& context) {
        const std::vector<LowRankTerm> change = f.change();
        return dora_output(layer, x, y, context, magnitude, norms->of(*layer.weight, change, f.term), change);
      };
    }
    return update;
  }

  SiteChange change_of(size_t site_index) const override {
    const c10::NoGradGuard no_grad;
    SiteChange change = Adapter::change_of(site_index);
    if (!config_.use_dora) return change;
    const at::Tensor& delta = change.weight;
    const at::Tensor weight = sites_[site_index].linear->weight->values();
    const at::Tensor norms = row_norms(weight, row_squares(weight), factors(site_index).change());
    const at::Tensor gain = (magnitudes_[site_index] / norms).unsqueeze(1);
    return {(gain - 1.0) * weight.detach().to(delta.scalar_type()) + gain * delta, {}};
  }

  AdapterState state(const std::string& optimizer = {}) const override {
    AdapterState state = LowRankAdapter::state(optimizer);
    for (size_t i = 0; i < down_starts_.size(); ++i) {
      state.tensors.push_back({fmt::format("{}.lora_A.start", sites_[i].path), down_starts_[i]});
      state.tensors.push_back({fmt::format("{}.lora_B.start", sites_[i].path), up_starts_[i]});
    }
    return state;
  }

 private:
  SiteFactors factors(size_t site_index) const {
    SiteFactors f{LowRankAdapter::terms(site_index).front(), {}, {}};
    if (site_index < down_starts_.size()) {
      f.down_start = down_starts_[site_index];
      f.up_start = up_starts_[site_index];
    }
    return f;
  }

  std::vector<at::Tensor> down_starts_, up_starts_;  // of pissa and olora
  std::vector<at::Tensor> magnitudes_;               // of DoRA
};

}  // namespace

Method lora_method() {
  Method method;
  method.name = "lora";
  method.summary = "One pair of low-rank factors per module (Hu et al. 2021)";
  method.traits = {.lora_plus = true, .lora_inits = true, .dora = true, .patterns = true, .words = true};
  method.traits.pairs = FactorPairs::kOwn;
  method.tensors = lora_tensors;
  method.create = [](MethodInput in) {
    LowRankLayout layout = lora_layout(in.config, in.sites);
    return std::make_unique<LoraAdapter>(std::move(in), std::move(layout));
  };
  method.peft = {
      .keeps_lora_options = true,
      .type = "LORA",
      .read = read_peft_lora,
      .keys = {{"alpha", "lora_alpha"}, {"dropout", "lora_dropout"}, {"init", "init_lora_weights"}},
      .mark = ".lora_A.weight"};
  return method;
}

}  // namespace msplora::detail
