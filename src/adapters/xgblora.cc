// XGBLoRA (arXiv 2410.19694): gradient boosting with low-rank adapters. Round t adapts a random subset of the
// layers with fresh factors of a small rank (1), which are then merged: W <- W + s B A. What was merged is
// kept as a stack of factors beside the weight and not added to it: a rank-1 change of a bfloat16 weight
// would be rounded away, the stack is as small as a LoRA of the same total rank, and a PEFT file of it is
// exact.
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adapters/computed_low_rank.h"
#include "adapters/initial.h"
#include "adapters/initial_factors.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "msplora/core/log.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

struct XgbLoraOptions {
  int64_t rounds = 0;
  int64_t layers_per_round = 0;
  int64_t booster_rank = 1;
  std::optional<double> scaling;
  double penalty = 0.0;
  int64_t warmup_steps = 10;
  std::optional<int64_t> seed;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("rounds", rounds,
            "Boosting rounds; 0: as many as give each module the total rank adapter.rank on average",
            at_least(0));
    visitor("layers_per_round", layers_per_round, "Layers adapted in a round; 0: a third of them",
            at_least(0));
    visitor("booster_rank", booster_rank, "Rank of the adapters of one round", at_least(1));
    visitor("scaling", scaling, "Factor on B A, for all rounds; unset: adapter.alpha / booster_rank",
            above(0));
    visitor("penalty", penalty, "Weight of |A|² + |B|² of the current round in the loss", at_least(0));
    visitor("warmup_steps", warmup_steps,
            "Steps over which the learning rate rises again after a merge; at most a quarter of a round",
            at_least(0));
    visitor("seed", seed, "Seed of the choice of layers; default: train.seed", at_least(0));
  }
};

/// The layers that hold targeted modules; modules outside the blocks count as one more layer (-1).
std::vector<int64_t> targeted_layers(const std::vector<Site>& sites) {
  std::set<int64_t> layers;
  for (const Site& site : sites) layers.insert(site.layer);
  return {layers.begin(), layers.end()};
}

int64_t layers_per_round(const XgbLoraOptions& options, int64_t layers) {
  if (options.layers_per_round > 0) return options.layers_per_round;
  return std::max<int64_t>(1, (layers + 1) / 3);  // a third, rounded to nearest
}

/// As many rounds as bring a layer adapter.rank / booster_rank turns on average.
int64_t count_rounds(const AdapterConfig& config, int64_t layers) {
  if (config.own<XgbLoraOptions>().rounds > 0) return config.own<XgbLoraOptions>().rounds;
  const int64_t turns = (config.rank + config.own<XgbLoraOptions>().booster_rank - 1) /
                        config.own<XgbLoraOptions>().booster_rank;
  const int64_t chosen = layers_per_round(config.own<XgbLoraOptions>(), layers);
  return (turns * layers + chosen - 1) / chosen;
}

/// The rounds that fit into a run: a round of one step would never move A, whose gradient is zero beside B =
/// 0.
int64_t rounds_within(int64_t rounds, int64_t total_steps) {
  return std::clamp<int64_t>(total_steps / 2, 1, rounds);
}

/// s of the update s B A of a round.
double booster_scaling(const AdapterConfig& config) {
  return config.own<XgbLoraOptions>().scaling.value_or(
      scaling_of(config.alpha, config.own<XgbLoraOptions>().booster_rank, config.use_rslora));
}

/// The layers of every round.
std::vector<std::set<int64_t>> choose_layers(const AdapterConfig& config, const std::vector<Site>& sites,
                                             uint64_t seed) {
  const std::vector<int64_t> layers = targeted_layers(sites);
  const auto count = static_cast<int64_t>(layers.size());
  const int64_t chosen = layers_per_round(config.own<XgbLoraOptions>(), count);
  std::vector<std::set<int64_t>> rounds;
  for (int64_t t = 0; t < count_rounds(config, count); ++t) {
    std::vector<int64_t> order = layers;
    RandomStream(seed, fmt::format("xgblora.layers.{}", t)).shuffle(order);
    rounds.emplace_back(order.begin(), order.begin() + chosen);
  }
  return rounds;
}

class XgbLoraAdapter : public ComputedLowRank {
 public:
  explicit XgbLoraAdapter(MethodInput input)
      : ComputedLowRank(std::move(input.config), std::move(input.target), std::move(input.sites)),
        seed_(input.seed),
        scaling_(booster_scaling(config_)) {
    XgbLoraOptions& options = config_.own<XgbLoraOptions>();
    // Recorded, so that adapter files know the layers of every round.
    if (!options.seed) options.seed = static_cast<int64_t>(seed_);
    rounds_ = choose_layers(config_, sites_, static_cast<uint64_t>(*options.seed));
    const int64_t rank = options.booster_rank;
    for (const Site& site : sites_) {
      Module module;
      module.down_name = site.path + ".lora_A.weight";
      module.up_name = site.path + ".lora_B.weight";
      const at::TensorOptions form = factor_options(site);
      module.down = add_trainable(module.down_name, draw(site, module, 0).to(form));
      module.up = add_trainable(module.up_name, at::zeros({site.out_features, rank}, form));
      const int64_t merges = turns_before(site, static_cast<int64_t>(rounds_.size()) - 1);
      module.stack_down = at::zeros({merges * rank, site.in_features}, form);
      module.stack_up = at::zeros({site.out_features, merges * rank}, form);
      modules_.push_back(std::move(module));
    }
    enter(0);
  }

  std::vector<LowRankTerm> terms(size_t site_index) const override {
    const Module& module = modules_.at(site_index);
    std::vector<LowRankTerm> terms;
    if (module.merged > 0) {
      const int64_t rows = module.merged * config_.own<XgbLoraOptions>().booster_rank;
      terms.push_back({module.stack_down.narrow(0, 0, rows), module.stack_up.narrow(1, 0, rows), scaling_});
    }
    if (module.is_active) {
      terms.push_back(
          {module.down, module.up, scaling_, config_.dropout, dropout_stream(sites_[site_index], 0)});
    }
    return terms;
  }

  std::vector<std::string> level_names() const override { return {"earlier rounds", "last round"}; }
  std::vector<size_t> levels_of_terms(size_t site_index) const override {
    std::vector<size_t> levels;
    if (modules_.at(site_index).merged > 0) levels.push_back(0);
    if (modules_.at(site_index).is_active) levels.push_back(1);
    return levels;
  }

  StepPlan begin_step(const TrainingProgress& progress) override {
    if (progress.step == 0) check_length(progress);
    StepPlan plan;
    for (const Module& module : modules_) {
      if (!module.is_active) plan.frozen.insert({module.down_name, module.up_name});
    }
    plan.lr_factors = warm_up(progress);
    return plan;
  }

  void gradients_ready(const TrainingProgress&) override {
    const double penalty = config_.own<XgbLoraOptions>().penalty;
    if (penalty <= 0) return;
    const c10::NoGradGuard no_grad;
    for (Module& module : modules_) {
      for (at::Tensor* factor : {&module.down, &module.up}) {
        if (module.is_active && factor->grad().defined()) factor->mutable_grad().add_(*factor, 2.0 * penalty);
      }
    }
  }
  void end_step(const TrainingProgress& progress, OptimizerControl& optimizer) override {
    const bool is_over = progress.step >= end_of_round(round_, progress);
    const bool has_next =
        round_ + 1 < rounds_within(static_cast<int64_t>(rounds_.size()), progress.total_steps);
    if (!is_over || !has_next) return;
    const c10::NoGradGuard no_grad;
    for (Module& module : modules_) {
      if (module.is_active) merge(module);
    }
    enter(round_ + 1);
    for (size_t i = 0; i < modules_.size(); ++i) {
      Module& module = modules_[i];
      if (!module.is_active) continue;
      module.down.copy_(draw(sites_[i], module, round_));
      optimizer.reset(module.down_name);
      optimizer.reset(module.up_name);
    }
  }

  AdapterState state(const std::string& optimizer = {}) const override {
    AdapterState state;
    state.facts = {{"round", round_}};
    for (size_t i = 0; i < modules_.size(); ++i) {
      if (modules_[i].stack_down.size(0) == 0) continue;
      state.tensors.push_back({sites_[i].path + ".merged_A.weight", modules_[i].stack_down});
      state.tensors.push_back({sites_[i].path + ".merged_B.weight", modules_[i].stack_up});
    }
    return state;
  }

  void restore(const nlohmann::json& facts, RestorePhase phase) override {
    if (phase == RestorePhase::kStructure) return;
    const auto round = facts.value("round", int64_t{-1});
    if (round < 0 || round >= static_cast<int64_t>(rounds_.size())) {
      throw Error(ErrorCode::kFormat, "state.round",
                  fmt::format("expected a round below {}, found {}", rounds_.size(), facts.dump()));
    }
    enter(round);
  }

 private:
  struct Module {
    std::string down_name, up_name;
    at::Tensor down, up;              // of the current round
    at::Tensor stack_down, stack_up;  // of the rounds that were merged, in order; room for all
    int64_t merged = 0;               // rounds in the stack
    bool is_active = false;
  };

  std::map<std::string, double> warm_up(const TrainingProgress& progress) const {
    std::map<std::string, double> factors;
    const int64_t begin = end_of_round(round_ - 1, progress);
    const int64_t steps =
        std::min(config_.own<XgbLoraOptions>().warmup_steps, (end_of_round(round_, progress) - begin) / 4);
    const int64_t done = progress.step - begin;
    if (round_ == 0 || done >= steps) return factors;
    const double factor = static_cast<double>(done + 1) / static_cast<double>(steps + 1);
    for (const Module& module : modules_) {
      if (module.is_active) factors[module.down_name] = factors[module.up_name] = factor;
    }
    return factors;
  }

  void check_length(const TrainingProgress& progress) const {
    const auto planned = static_cast<int64_t>(rounds_.size());
    const int64_t rounds = rounds_within(planned, progress.total_steps);
    if (rounds == planned) return;
    log_warning(
        fmt::format("xgblora: {} of {} rounds fall into the {} steps of this run, since a round takes two "
                    "steps at least; "
                    "modules collect less than adapter.rank (adapter.xgblora.rounds, layers_per_round)",
                    rounds, planned, progress.total_steps));
  }

  /// Optimizer steps of a run that are done when the round is: all rounds are as long, but for one step.
  int64_t end_of_round(int64_t round, const TrainingProgress& progress) const {
    const int64_t rounds = rounds_within(static_cast<int64_t>(rounds_.size()), progress.total_steps);
    return (round + 1) * progress.total_steps / rounds;
  }

  /// Rounds before `round` that adapt the site's layer.
  int64_t turns_before(const Site& site, int64_t round) const {
    return std::count_if(rounds_.begin(), rounds_.begin() + round,
                         [&](const std::set<int64_t>& layers) { return layers.contains(site.layer); });
  }

  /// The first factor of a round; in round 0 it is LoRA's.
  at::Tensor draw(const Site& site, const Module& module, int64_t round) const {
    const std::string name =
        round == 0 ? module.down_name : fmt::format("{}.round.{}", module.down_name, round);
    return initial_factors({config_.init, name, config_.own<XgbLoraOptions>().booster_rank, 1.0, seed_}, site)
        .down;
  }

  void merge(Module& module) const {
    const int64_t rank = config_.own<XgbLoraOptions>().booster_rank, begin = module.merged * rank;
    module.stack_down.narrow(0, begin, rank).copy_(module.down);
    module.stack_up.narrow(1, begin, rank).copy_(module.up);
    module.up.zero_();
  }

  void enter(int64_t round) {
    round_ = round;
    const std::set<int64_t>& layers = rounds_[static_cast<size_t>(round)];
    for (size_t i = 0; i < modules_.size(); ++i) {
      modules_[i].merged = turns_before(sites_[i], round);
      modules_[i].is_active = layers.contains(sites_[i].layer);
    }
  }

  uint64_t seed_;
  double scaling_;
  std::vector<std::set<int64_t>> rounds_;
  std::vector<Module> modules_;  // parallel to sites_
  int64_t round_ = 0;
};

void check_options(const PlanInput& input, ErrorList& errors) {
  const AdapterConfig& config = input.config;
  const AdapterConfig defaults;
  if (config.own<XgbLoraOptions>().scaling && (config.alpha != defaults.alpha || config.use_rslora)) {
    errors.add("adapter.xgblora.scaling",
               fmt::format("given together with adapter.{}", config.use_rslora ? "use_rslora" : "alpha"),
               "remove one: without it the scaling is alpha / booster_rank");
  }
  const auto layers = static_cast<int64_t>(targeted_layers(input.sites).size());
  if (layers > 0 && config.own<XgbLoraOptions>().layers_per_round > layers) {
    errors.add("adapter.xgblora.layers_per_round",
               fmt::format("{}, but only {} layers are targeted",
                           config.own<XgbLoraOptions>().layers_per_round, layers),
               fmt::format("at most {}", layers));
  }
  if (input.check_ranks) {
    check_rank("adapter.xgblora.booster_rank", config.own<XgbLoraOptions>().booster_rank, input.sites,
               errors);
  }
}

std::vector<TensorSpec> xgblora_tensors(const PlanInput& input, ErrorList& errors) {
  check_options(input, errors);
  std::vector<TensorSpec> specs;
  const int64_t rank = input.config.own<XgbLoraOptions>().booster_rank;
  for (const Site& site : input.sites) {
    specs.push_back({site.path + ".lora_A.weight", {rank, site.in_features}, 0, site.layer});
    specs.push_back({site.path + ".lora_B.weight", {site.out_features, rank}, 0, site.layer});
  }
  return specs;
}

std::string xgblora_line(const AdapterConfig& config) {
  const XgbLoraOptions& o = config.own<XgbLoraOptions>();
  return fmt::format(
      "xgblora, {}, {} in each, boosters of rank {}, scaling {}",
      o.rounds > 0 ? fmt::format("{} rounds", o.rounds)
                   : fmt::format("rounds for a total rank of {}", config.rank),
      o.layers_per_round > 0 ? fmt::format("{} layers", o.layers_per_round) : "a third of the layers",
      o.booster_rank, booster_scaling(config));
}

}  // namespace

Method xgblora_method() {
  Method method;
  method.name = "xgblora";
  method.summary =
      "Gradient boosting: rounds of rank-1 adapters on random layers, merged one after another (2024)";
  method.options = OptionGroup(XgbLoraOptions(), "Options of method xgblora");
  method.tensors = xgblora_tensors;
  method.create = [](MethodInput in) { return std::make_unique<XgbLoraAdapter>(std::move(in)); };
  method.line = xgblora_line;
  method.ranks = [](const AdapterConfig& config, int64_t, int64_t) {
    return std::vector<int64_t>{config.own<XgbLoraOptions>().booster_rank};
  };
  return method;
}

}  // namespace msplora::detail
