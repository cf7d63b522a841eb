// LoRTA (arXiv 2410.04060): the updates of attention's projections in all layers are slices of one tensor in
// CP form over hidden, within-head, head, layer and matrix (q, k, v, o) modes,
//   T[a, h, b, l, m] = sum_p A[a, p] B[b, p] C_h[h, p] C_l[l, p] C_m[m, p].
// A slice (l, m) has rank r: its two factors are computed from the small ones in every forward pass, so that
// neither T nor a dense update is ever formed.
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adapters/computed_low_rank.h"
#include "adapters/config_checks.h"
#include "adapters/initial.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "adapters/target_modules.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

struct LortaOptions {
  std::optional<double> alpha;
  double init_scale = 0.0;
  std::string orientation = "semantic";
  bool grouped_query = false;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("alpha", alpha,
            "Scaling numerator of lorta, instead of adapter.alpha; default: the rank, so that "
            "the scaling is 1",
            above(0));
    visitor("init_scale", init_scale,
            "Initial factors of heads, layers and matrices are uniform within sqrt(6 / ((1 + 5 s^2) r)), "
            "s = init_scale: a larger value starts smaller",
            at_least(0));
    visitor("orientation", orientation,
            "Side of the heads: `semantic` outputs of q, k, v and inputs of o; `peft_compat` inputs of all, "
            "`litgpt_compat` outputs of all, as the authors' two programs do",
            one_of({"semantic", "peft_compat", "litgpt_compat"}));
    visitor("grouped_query", grouped_query,
            "A head factor of their own for keys and values, for models with fewer key-value heads");
  }
};

constexpr int64_t kMatrices = 4;
constexpr int64_t kOutput = 3;

/// Row of C_m: 0 query, 1 key, 2 value, 3 output.
std::optional<int64_t> matrix_of(const Site& site) {
  switch (site.role) {
    case LinearRole::kQuery:
      return 0;
    case LinearRole::kKey:
      return 1;
    case LinearRole::kValue:
      return 2;
    case LinearRole::kAttentionOutput:
      return kOutput;
    default:
      return std::nullopt;
  }
}

/// Which slice of the tensor a site is, and which of its sides carries the heads.
struct Slice {
  int64_t layer = 0;
  int64_t matrix = 0;
  bool heads_on_input = false;
  bool uses_kv_heads = false;
};

/// Extents of the modes, and the slice of each targeted site.
struct LortaLayout {
  int64_t hidden = 0, head_dim = 0, heads = 0, layers = 0;
  int64_t kv_heads = 0;  // rows of the head factor of keys and values; 0: they use that of the queries
  std::vector<Slice> slices;

  std::vector<TensorSpec> tensors(int64_t rank, int64_t owner) const {
    std::vector<TensorSpec> specs = {{"lorta_A", {hidden, rank}, 0, owner},
                                     {"lorta_B", {head_dim, rank}, 0, owner},
                                     {"lorta_C_h", {heads, rank}, 0, owner},
                                     {"lorta_C_l", {layers, rank}, 0, owner},
                                     {"lorta_C_m", {kMatrices, rank}, 0, owner}};
    if (kv_heads > 0) specs.push_back({"lorta_C_kv", {kv_heads, rank}, 0, owner});
    return specs;
  }
};

bool heads_on_input(const std::string& orientation, int64_t matrix) {
  if (orientation == "semantic") return matrix == kOutput;
  return orientation == "peft_compat";
}

class LayoutMaker {
 public:
  LayoutMaker(const AdapterConfig& config, const std::vector<Site>& sites, int64_t num_layers,
              const AttentionHeads& heads, ErrorList& errors)
      : config_(config), sites_(sites), heads_(heads), errors_(errors) {
    layout_.layers = num_layers;
    layout_.heads = heads.num_attention_heads;
  }

  LortaLayout make() {
    const size_t problems = errors_.size();
    check_modules();
    if (heads_.num_attention_heads <= 0) {
      errors_.add("model", "the number of attention heads is not known, which lorta needs");
    }
    if (errors_.size() > problems || sites_.empty()) return layout_;
    for (const Site& site : sites_) add(site);
    check_key_value_heads();
    if (errors_.size() == problems) check_extents();
    return layout_;
  }

 private:
  void check_modules() {
    std::vector<Site> others, fused, outside;
    for (const Site& site : sites_) {
      const bool is_fused = site.role == LinearRole::kQkv;
      if (!matrix_of(site)) (is_fused ? fused : others).push_back(site);
      if (site.layer < 0 || site.layer >= layout_.layers) outside.push_back(site);
    }
    constexpr const char* kWhere = "adapter.target_modules";
    if (!fused.empty()) {
      errors_.add(kWhere, fmt::format("{} holds query, key and value in one matrix, whose parts lorta cannot "
                                      "tell apart",
                                      describe_sites(fused)));
    }
    if (!others.empty()) {
      errors_.add(
          kWhere,
          fmt::format("lorta adapts the query, key, value and output projections of attention, not {}",
                      describe_sites(others)),
          "query, key, value, attention.output.dense or q_proj, k_proj, v_proj, o_proj");
    }
    if (others.empty() && !outside.empty()) {
      errors_.add(kWhere,
                  fmt::format("{} lies in none of the {} layers", outside.front().path, layout_.layers));
    }
  }

  void add(const Site& site) {
    Slice slice;
    slice.layer = site.layer;
    slice.matrix = *matrix_of(site);
    slice.heads_on_input = heads_on_input(config_.own<LortaOptions>().orientation, slice.matrix);
    const bool is_key_or_value = slice.matrix == 1 || slice.matrix == 2;
    slice.uses_kv_heads = is_key_or_value && heads_.num_key_value_heads != heads_.num_attention_heads;
    layout_.slices.push_back(slice);
  }

  void check_key_value_heads() {
    const bool differ = std::any_of(layout_.slices.begin(), layout_.slices.end(),
                                    [](const Slice& slice) { return slice.uses_kv_heads; });
    if (!differ) return;
    const std::string found = fmt::format("the model has {} attention heads, but {} for keys and values",
                                          heads_.num_attention_heads, heads_.num_key_value_heads);
    if (!config_.own<LortaOptions>().grouped_query) {
      errors_.add("adapter.target_modules", fmt::format("{}, and LoRTA is defined for equal numbers", found),
                  "adapt queries and outputs alone, or set adapter.lorta.grouped_query");
    } else if (config_.own<LortaOptions>().orientation != "semantic") {
      errors_.add("adapter.lorta.orientation",
                  fmt::format("{}; the authors' programs need equal numbers", found), "semantic");
    } else if (heads_.num_key_value_heads <= 0) {
      errors_.add("model", "the number of key-value heads is not known");
    }
    layout_.kv_heads = heads_.num_key_value_heads;
  }

  /// All sites must be slices of one tensor.
  void check_extents() {
    for (size_t i = 0; i < sites_.size(); ++i) {
      const Slice& slice = layout_.slices[i];
      const int64_t hidden = slice.heads_on_input ? sites_[i].out_features : sites_[i].in_features;
      const int64_t inner = slice.heads_on_input ? sites_[i].in_features : sites_[i].out_features;
      const int64_t heads = slice.uses_kv_heads ? layout_.kv_heads : layout_.heads;
      const int64_t head_dim = inner / heads;
      if (i == 0) {
        layout_.hidden = hidden;
        layout_.head_dim = head_dim;
      }
      if (inner % heads == 0 && hidden == layout_.hidden && head_dim == layout_.head_dim) continue;
      errors_.add(
          "adapter.target_modules",
          fmt::format("{} [{}, {}] does not fit a tensor of {} heads of size {} and hidden size {}",
                      sites_[i].path, sites_[i].out_features, sites_[i].in_features, heads, layout_.head_dim,
                      layout_.hidden),
          config_.own<LortaOptions>().orientation == "semantic" ? "" : "adapter.lorta.orientation: semantic");
      return;
    }
  }

  const AdapterConfig& config_;
  const std::vector<Site>& sites_;
  AttentionHeads heads_;
  ErrorList& errors_;
  LortaLayout layout_;
};

std::vector<TensorSpec> lorta_tensors(const PlanInput& input, ErrorList& errors) {
  const AdapterConfig& config = input.config;
  const size_t problems = errors.size();
  const LortaLayout layout = LayoutMaker(config, input.sites, input.num_layers, input.heads, errors).make();
  if (input.check_ranks) check_rank("adapter.rank", config.rank, input.sites, errors);
  if (errors.size() > problems || input.sites.empty()) return {};
  int64_t owner = input.sites.front().layer;
  for (const Site& site : input.sites) owner = std::min(owner, site.layer);
  return layout.tensors(config.rank, owner);
}

class LortaAdapter : public ComputedLowRank {
 public:
  LortaAdapter(MethodInput input, LortaLayout layout)
      : ComputedLowRank(std::move(input.config), std::move(input.target), std::move(input.sites)),
        layout_(std::move(layout)),
        scaling_(scaling_of(config_.own<LortaOptions>().alpha.value_or(static_cast<double>(config_.rank)),
                            config_.rank, config_.use_rslora)) {
    const at::TensorOptions options = factor_options(sites_.front());
    const auto rank = static_cast<double>(config_.rank);
    const double scale = config_.own<LortaOptions>().init_scale;
    // Kaiming bounds with fan_in = r, the width of the matrices as the authors store them; B alone is 0.
    const double bound_a = 1.0 / std::sqrt(rank);
    const double bound_c = std::sqrt(6.0 / ((1.0 + 5.0 * scale * scale) * rank));
    for (const TensorSpec& spec : layout_.tensors(config_.rank, 0)) {
      const double bound = spec.name == "lorta_A" ? bound_a : spec.name == "lorta_B" ? 0.0 : bound_c;
      at::Tensor tensor = draw_uniform(spec.shape, bound, input.seed, spec.name).to(options);
      factors_.push_back(add_trainable(spec.name, tensor));
    }
  }

  std::vector<LowRankTerm> terms(size_t site_index) const override {
    const Slice& slice = layout_.slices.at(site_index);
    const at::Tensor &a = factors_[0], &b = factors_[1], &c_l = factors_[3], &c_m = factors_[4];
    const at::Tensor& c_h = factors_[slice.uses_kv_heads ? 5 : 2];
    const at::Tensor c = c_l.select(0, slice.layer) * c_m.select(0, slice.matrix);
    const at::Tensor residual = a * c;  // [hidden, r]
    const at::Tensor heads = (c_h.unsqueeze(1) * b.unsqueeze(0)).reshape({-1, config_.rank});
    const std::string& path = sites_[site_index].path;
    LowRankTerm term;
    term.down = (slice.heads_on_input ? heads : residual).t();
    term.up = slice.heads_on_input ? residual : heads;
    term.scaling = scaling_;
    term.dropout = config_.dropout;
    term.dropout_stream = hash_name(fmt::format("{}.lorta_dropout", path));
    return {term};
  }

 private:
  LortaLayout layout_;
  double scaling_;
  std::vector<at::Tensor> factors_;  // A, B, C_h, C_l, C_m and perhaps C_kv
};

}  // namespace

Method lorta_method() {
  Method method;
  method.name = "lorta";
  method.summary = "One CP tensor for the attention of all layers, heads and matrices (2024)";
  method.options = OptionGroup(LortaOptions(), "Options of method lorta");
  method.unused = {{"init"}, {"alpha", "adapter.lorta.alpha, whose default is the rank"}};
  method.tensors = lorta_tensors;
  method.create = [](MethodInput in) {
    ErrorList errors;  // checked before
    LortaLayout layout =
        LayoutMaker(in.config, in.sites, in.target.num_layers, in.target.heads, errors).make();
    return std::make_unique<LortaAdapter>(std::move(in), std::move(layout));
  };
  method.line = [](const AdapterConfig& config) {
    const LortaOptions& o = config.own<LortaOptions>();
    return fmt::format("lorta, rank {}, alpha {}, {} orientation{}{}", config.rank,
                       o.alpha.value_or(static_cast<double>(config.rank)), o.orientation,
                       config.dropout > 0 ? fmt::format(", dropout {}", config.dropout) : "",
                       config.use_rslora ? ", rank-stabilised" : "");
  };
  return method;
}

}  // namespace msplora::detail
