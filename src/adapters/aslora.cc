// ASLoRA (arXiv 2412.10135): y = W x + b + s B_l A dropout(x) with one A for all layers and one B for each.
// While training, the layers whose running means of B are closest are tied, one pair at a time:
//   mean_l(t) = (1/t) sum over k <= t of B_l(k)                                          (Eq. 3)
//   at t = start_step + k interval:  the lower of the pair with the smallest ‖mean_i - mean_j‖ takes the
//   upper one's B                                                                        (Eq. 4)
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "adapters/initial_factors.h"
#include "adapters/layer_groups.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "msplora/core/log.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

struct AsloraOptions {
  std::string share_a = "module";
  std::string pairs = "adjacent";
  std::string decision = "module";
  std::optional<int64_t> start_step;
  std::optional<int64_t> interval;
  std::optional<int64_t> merges;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("share_a", share_a,
            "`module`: one A for each module name and shape; `global`: one for all modules with the same "
            "number of inputs",
            one_of({"module", "global"}));
    visitor("pairs", pairs, "Which groups of layers may merge: neighbours only, or any two",
            one_of({"adjacent", "all"}));
    visitor("decision", decision,
            "`module`: each module name merges its own layers; `joint`: the same layers merge in all of them",
            one_of({"module", "joint"}));
    visitor("start_step", start_step,
            "The first merge is `interval` optimizer steps after this one; unset: 320 of 6,900 steps of the "
            "run, as in the paper",
            at_least(0));
    visitor("interval", interval, "Optimizer steps between merges; unset: 240 of 6,900 steps of the run",
            at_least(1));
    visitor("merges", merges,
            "Number of merges; unset: 7, or until one group is left if there are fewer layers", at_least(0));
  }
};

// The paper's run on MRPC, 12 layers: when its merges fall and how long it is.
constexpr int64_t kUsualMerges = 7, kStartStep = 320, kInterval = 240, kTotalSteps = 6900;

/// The sites of one module name and shape, a site for each layer, lowest first.
struct Stack {
  std::string name;           // "query"
  std::vector<size_t> sites;  // indices
  size_t down = 0;            // index into Structure::down_owners
};

/// Stacks that merge the same layers.
struct Family {
  std::vector<size_t> stacks;
  size_t layers = 0;
};

/// Which tensors there are, without tensors.
struct Structure {
  std::vector<Stack> stacks;
  std::vector<Family> families;
  std::vector<size_t> down_owners;  // the site that names each A
  std::vector<size_t> stack_of;     // per site
  std::vector<size_t> family_of;    // per stack
};

std::vector<int64_t> layers_of(const Stack& stack, const std::vector<Site>& sites) {
  std::vector<int64_t> layers;
  for (const size_t site : stack.sites) layers.push_back(sites[site].layer);
  return layers;
}

Structure structure_of(const AsloraOptions& options, const std::vector<Site>& sites) {
  Structure result;
  std::map<std::string, size_t> stacks, downs;
  for (size_t site = 0; site < sites.size(); ++site) {
    const std::string key = stack_key(sites[site]);
    const auto [stack, is_new] = stacks.emplace(key, result.stacks.size());
    if (is_new) {
      const std::string group =
          options.share_a == "global" ? fmt::format("{} inputs", sites[site].in_features) : key;
      const auto [down, is_new_down] = downs.emplace(group, result.down_owners.size());
      if (is_new_down) result.down_owners.push_back(site);
      result.stacks.push_back({sites[site].module, {}, down->second});
    }
    result.stacks[stack->second].sites.push_back(site);
    result.stack_of.push_back(stack->second);
  }
  for (Stack& stack : result.stacks) {
    std::stable_sort(stack.sites.begin(), stack.sites.end(),
                     [&](size_t a, size_t b) { return sites[a].layer < sites[b].layer; });
  }
  std::optional<size_t> joint;
  for (size_t stack = 0; stack < result.stacks.size(); ++stack) {
    const std::vector<size_t>& members = result.stacks[stack].sites;
    // Modules outside the layers never merge.
    const bool joins = options.decision == "joint" && sites[members.front()].layer >= 0;
    if (!joins || !joint) {
      if (joins) joint = result.families.size();
      result.family_of.push_back(result.families.size());
      result.families.push_back({{stack}, members.size()});
    } else {
      result.family_of.push_back(*joint);
      result.families[*joint].stacks.push_back(stack);
    }
  }
  return result;
}

/// Merges that a family makes in all.
int64_t merges_of(const AsloraOptions& options, size_t layers) {
  return std::min(options.merges.value_or(kUsualMerges), static_cast<int64_t>(layers) - 1);
}

struct MergeSchedule {
  int64_t start = 0, interval = 1;

  bool is_due(int64_t step) const { return step > start && (step - start) % interval == 0; }
};

/// What the options leave open is the same share of the run as in the paper's.
MergeSchedule schedule_of(const AsloraOptions& options, int64_t total_steps) {
  const auto scaled = [&](int64_t steps) {
    return (2 * steps * total_steps + kTotalSteps) / (2 * kTotalSteps);  // to the nearest
  };
  return {options.start_step.value_or(scaled(kStartStep)),
          options.interval.value_or(std::max<int64_t>(1, scaled(kInterval)))};
}

std::string down_name(const Site& site) {
  return site.path + ".lora_A.weight";
}
std::string up_name(const Site& site) {
  return site.path + ".lora_B.weight";
}

void check_families(const AsloraOptions& options, const Structure& structure, const std::vector<Site>& sites,
                    ErrorList& errors) {
  size_t most = 0;
  for (const Family& family : structure.families) {
    most = std::max(most, family.layers);
    const std::vector<int64_t> layers = layers_of(structure.stacks[family.stacks.front()], sites);
    for (const size_t other : family.stacks) {
      const std::vector<int64_t> others = layers_of(structure.stacks[other], sites);
      if (others == layers) continue;
      errors.add("adapter.aslora.decision",
                 fmt::format("`joint`, but {} is adapted in layers {} and {} in layers {}",
                             structure.stacks[family.stacks.front()].name, fmt::join(layers, " "),
                             structure.stacks[other].name, fmt::join(others, " ")),
                 "adapt the same layers everywhere, or decision: module");
    }
  }
  if (options.merges && most > 0 && *options.merges >= static_cast<int64_t>(most)) {
    errors.add("adapter.aslora.merges",
               fmt::format("{} merges, but only {} layers are adapted", *options.merges, most),
               fmt::format("at most {}", most - 1));
  }
}

std::vector<TensorSpec> aslora_tensors(const PlanInput& input, ErrorList& errors) {
  const AdapterConfig& config = input.config;
  const AsloraOptions& options = config.own<AsloraOptions>();
  if (input.check_ranks) check_rank("adapter.rank", config.rank, input.sites, errors);
  const Structure structure = structure_of(options, input.sites);
  if (input.check_ranks) check_families(options, structure, input.sites, errors);
  std::vector<TensorSpec> tensors;
  for (const size_t owner : structure.down_owners) {
    const Site& site = input.sites[owner];
    tensors.push_back({down_name(site), {config.rank, site.in_features}, 0, site.layer});
  }
  for (const Stack& stack : structure.stacks) {
    // Which layers merge shows in training; how many do is known.
    const int64_t dropped = merges_of(options, stack.sites.size());
    for (size_t i = 0; i < stack.sites.size(); ++i) {
      const Site& site = input.sites[stack.sites[i]];
      tensors.push_back({up_name(site),
                         {site.out_features, config.rank},
                         0,
                         site.layer,
                         static_cast<int64_t>(i) < dropped});
    }
  }
  return tensors;
}

class AsloraAdapter : public Adapter {
 public:
  explicit AsloraAdapter(MethodInput input)
      : Adapter(std::move(input.config), std::move(input.target), std::move(input.sites)),
        structure_(structure_of(config_.own<AsloraOptions>(), sites_)),
        scaling_(scaling_of(config_.alpha, config_.rank, config_.use_rslora)) {
    for (const size_t owner : structure_.down_owners) {
      const FactorRequest request{config_.init, down_name(sites_[owner]), config_.rank, scaling_, input.seed};
      const Factors factors = input.values_follow ? zero_factors(config_.rank, sites_[owner])
                                                  : initial_factors(request, sites_[owner]);
      downs_.push_back(add_trainable(request.down_name, factors.down));
    }
    for (const Site& site : sites_) {
      ups_.push_back(add_trainable(up_name(site), zero_factors(config_.rank, site).up));
      trainable_.back().lr_scale = config_.lora_plus_ratio;
      means_.push_back(at::zeros_like(ups_.back().detach()));
    }
    own_ = trainable_;
    for (const Family& family : structure_.families) groups_.emplace_back(family.layers);
  }

  std::vector<LowRankTerm> terms(size_t site_index) const override {
    const Stack& stack = structure_.stacks[structure_.stack_of[site_index]];
    return {{downs_[stack.down], ups_[owner_of(site_index)], scaling_, config_.dropout,
             hash_name(fmt::format("{}.lora_dropout.0", sites_.at(site_index).path))}};
  }

  AdapterState state(const std::string& optimizer = {}) const override {
    AdapterState state;
    std::map<std::string, std::vector<std::string>> downs, ups;
    for (size_t i = 0; i < sites_.size(); ++i) {
      const Stack& stack = structure_.stacks[structure_.stack_of[i]];
      downs[sites_[structure_.down_owners[stack.down]].path].push_back(sites_[i].path);
      ups[sites_[owner_of(i)].path].push_back(sites_[i].path);
    }
    state.plan = {{"rank", config_.rank}, {"scaling", scaling_}, {"A", downs}, {"B", ups}};
    // Per family: the layer whose B each layer uses, as places among the adapted layers.
    nlohmann::json families = nlohmann::json::array();
    for (size_t f = 0; f < groups_.size(); ++f) {
      std::vector<size_t> tops;
      for (size_t layer = 0; layer < groups_[f].layers(); ++layer) tops.push_back(groups_[f].top(layer));
      families.push_back({{"module", family_name(f)}, {"tops", tops}});
    }
    state.facts = {{"families", std::move(families)}};
    if (optimizer.empty()) return state;
    for (size_t i = 0; i < sites_.size(); ++i)
      state.training.push_back({sites_[i].path + ".lora_B.mean", means_[i]});
    return state;
  }

  void restore(const nlohmann::json& state, RestorePhase) override {
    std::vector<LayerGroups> restored = groups_;
    const auto families = state.is_object() ? state.find("families") : state.end();
    bool fits = state.is_object() && families != state.end() && families->is_array() &&
                families->size() == restored.size();
    for (size_t f = 0; fits && f < restored.size(); ++f) {
      const nlohmann::json& family = (*families)[f];
      try {
        fits = family.at("module") == family_name(f) &&
               restored[f].assign(family.at("tops").get<std::vector<size_t>>());
      } catch (const nlohmann::json::exception&) {
        fits = false;
      }
    }
    if (!fits) {
      throw Error(ErrorCode::kFormat, "state of aslora",
                  "expected, for each module, the layer whose B every layer uses; found " + state.dump());
    }
    groups_ = std::move(restored);
    apply_groups();
  }

  StepPlan begin_step(const TrainingProgress& progress) override {
    if (progress.step == 0) check_length(progress);
    return {.frozen = unused()};
  }

  void end_step(const TrainingProgress& progress, OptimizerControl& optimizer) override {
    const c10::NoGradGuard no_grad;
    const MergeSchedule schedule = schedule_of(config_.own<AsloraOptions>(), progress.total_steps);
    bool has_merged = false;
    for (size_t f = 0; f < structure_.families.size(); ++f) {
      const int64_t left = merges_left(f);
      if (left <= 0) continue;
      update_means(f, progress.step);
      if (!schedule.is_due(progress.step)) continue;
      merge_closest(f, progress.step, optimizer);
      has_merged = true;
    }
    if (has_merged) apply_groups();
  }

 private:
  /// The B that no layer uses any more.
  std::set<std::string> unused() const {
    std::set<std::string> names;
    for (size_t i = 0; i < sites_.size(); ++i) {
      if (owner_of(i) != i) names.insert(up_name(sites_[i]));
    }
    return names;
  }

  void check_length(const TrainingProgress& progress) const {
    const AsloraOptions& o = config_.own<AsloraOptions>();
    const MergeSchedule schedule = schedule_of(o, progress.total_steps);
    const int64_t fitting = std::max<int64_t>(0, progress.total_steps - schedule.start) / schedule.interval;
    int64_t wanted = 0;
    for (const Family& family : structure_.families) wanted = std::max(wanted, merges_of(o, family.layers));
    if (fitting >= wanted) return;
    log_warning(fmt::format(
        "aslora: {} of {} merges fall into the {} steps of this run; with a start at step {} and one merge "
        "every {} steps the last is due at step {} (adapter.aslora.start_step, interval, merges)",
        fitting == 0 ? "none" : std::to_string(fitting), wanted, progress.total_steps, schedule.start,
        schedule.interval, schedule.start + wanted * schedule.interval));
  }

  std::string family_name(size_t family) const {
    std::vector<std::string> names;
    for (const size_t stack : structure_.families[family].stacks)
      names.push_back(structure_.stacks[stack].name);
    return fmt::format("{}", fmt::join(names, ", "));
  }

  /// The site whose B the site uses.
  size_t owner_of(size_t site) const {
    const size_t stack = structure_.stack_of[site];
    const std::vector<size_t>& sites = structure_.stacks[stack].sites;
    const auto place = static_cast<size_t>(std::find(sites.begin(), sites.end(), site) - sites.begin());
    return sites[groups_[structure_.family_of[stack]].top(place)];
  }

  int64_t merges_left(size_t family) const {
    const size_t layers = structure_.families[family].layers;
    const size_t done = layers - groups_[family].tops().size();
    return merges_of(config_.own<AsloraOptions>(), layers) - static_cast<int64_t>(done);
  }

  /// One record for each group: that of its top goes on, the others stay where they were.
  void update_means(size_t family, int64_t step) {
    for (const size_t top : groups_[family].tops()) {
      for (const size_t stack : structure_.families[family].stacks) {
        const size_t site = structure_.stacks[stack].sites[top];
        means_[site] += (ups_[site] - means_[site]) / static_cast<double>(step);
      }
    }
  }

  double distance(size_t family, size_t lower, size_t upper) const {
    double squares = 0.0;
    for (const size_t stack : structure_.families[family].stacks) {
      const std::vector<size_t>& sites = structure_.stacks[stack].sites;
      squares += (means_[sites[lower]] - means_[sites[upper]]).square().sum(at::kDouble).item<double>();
    }
    return std::sqrt(squares);
  }

  void merge_closest(size_t family, int64_t step, OptimizerControl& optimizer) {
    const auto pair =
        closest_pair(groups_[family], config_.own<AsloraOptions>().pairs == "adjacent",
                     [&](size_t lower, size_t upper) { return distance(family, lower, upper); });
    if (!pair) return;
    groups_[family].merge(pair->lower, pair->upper);
    for (const size_t stack : structure_.families[family].stacks) {
      const std::vector<size_t>& sites = structure_.stacks[stack].sites;
      const Site &lower = sites_[sites[pair->lower]], &upper = sites_[sites[pair->upper]];
      optimizer.reset(up_name(lower));
      log_info(fmt::format("step {}: {} of layer {} takes the B of layer {} (distance {:.4g})", step,
                           structure_.stacks[stack].name, lower.layer, upper.layer, pair->distance));
    }
  }

  /// Brings the list of trainable tensors and the layers of the model to the groups.
  void apply_groups() {
    const std::set<std::string> dropped = unused();
    std::vector<TrainableTensor> now;
    for (const TrainableTensor& entry : own_) {
      const bool is_used = !dropped.contains(entry.name);
      entry.tensor.requires_grad_(is_used);
      if (is_used) now.push_back(entry);
    }
    for (const TrainableTensor& entry : trainable_) {
      if (entry.group != ParameterGroup::kAdapter) now.push_back(entry);
    }
    trainable_ = std::move(now);
    if (attached()) attach();
  }

  Structure structure_;
  double scaling_ = 1.0;
  std::vector<at::Tensor> downs_;        // parallel to structure_.down_owners
  std::vector<at::Tensor> ups_, means_;  // parallel to sites(); some B may be used no more
  std::vector<TrainableTensor> own_;     // all A and B
  std::vector<LayerGroups> groups_;      // parallel to structure_.families
};

}  // namespace

Method aslora_method() {
  Method method;
  method.name = "aslora";
  method.summary =
      "One A for all layers, one B for each, and the B of similar layers tied in training (2024)";
  method.traits = {.lora_plus = true};
  method.options = OptionGroup(AsloraOptions(), "Options of method aslora");
  method.tensors = aslora_tensors;
  method.create = [](MethodInput in) { return std::make_unique<AsloraAdapter>(std::move(in)); };
  return method;
}

}  // namespace msplora::detail
