// TT-LoRA (arXiv 2408.01008): the update of a module is a tensor train, delta W = alpha * matrix of
//   T[i_1 ... i_D] = G_1[:, i_1, :] ... G_D[:, i_D, :].
// Cut at the border of input and output indices, T is a product of a matrix of the cores before the cut and
// one of those after it: a low-rank term of rank r, computed from the cores in every forward pass.
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "adapters/computed_low_rank.h"
#include "adapters/config_checks.h"
#include "adapters/initial.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "adapters/target_modules.h"
#include "adapters/tensor_train.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

struct TtloraOptions {
  std::vector<int64_t> shape;
  std::map<std::string, std::vector<int64_t>> shape_pattern;
  std::string init = "direct";
  std::string convention = "canonical";

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor(
        "shape", shape,
        "Sizes of the cores: factors of the input dimension, then factors of the output dimension; empty: "
        "factors of at most 16",
        at_least(2));
    visitor("shape_pattern", shape_pattern,
            "Regular expression of a module path (its end) to its shape; sorted, the first that matches wins",
            at_least(2));
    visitor(
        "init", init,
        "Initial cores: `direct` uniform with norm 1, `zero_last` the same with the last core 0 (training "
        "starts at the base model), `tt_svd` the decomposition of a drawn matrix (as first published)",
        one_of({"direct", "zero_last", "tt_svd"}));
    visitor("convention", convention,
            "How cores become a matrix: `canonical`, or as the authors' programs do: `orig_reconstruct` "
            "(output factors first), `lanl_contract` (input factors reversed)",
            one_of({"canonical", "orig_reconstruct", "lanl_contract"}));
  }
};

/// The train of one site.
struct Train {
  std::vector<int64_t> factors;
  size_t cut = 0;  // cores before the border
};

bool output_first(const AdapterConfig& config) {
  return config.own<TtloraOptions>().convention == "orig_reconstruct";
}

/// Falling factors of the first dimension, rising ones of the second: the wide cores stand at the ends, where
/// they cost r and not r^2.
std::vector<int64_t> automatic_shape(int64_t first, int64_t second) {
  std::vector<int64_t> factors = small_factors(first);
  const std::vector<int64_t> rest = small_factors(second);
  factors.insert(factors.end(), rest.rbegin(), rest.rend());
  return factors;
}

Train train_of(const AdapterConfig& config, const Site& site) {
  int64_t first = site.in_features, second = site.out_features;
  if (output_first(config)) std::swap(first, second);
  Train train;
  train.factors =
      pattern_value(config.own<TtloraOptions>().shape_pattern, site.path, config.own<TtloraOptions>().shape);
  if (train.factors.empty()) train.factors = automatic_shape(first, second);
  train.cut = find_cut(train.factors, first, second);
  return train;
}

std::string core_name(const Site& site, size_t k) {
  return fmt::format("{}.tt_cores.{}", site.path, k);
}

/// One error for all sites of a shape that a list does not fit.
void check_cuts(const AdapterConfig& config, const std::vector<Site>& sites, ErrorList& errors) {
  std::map<std::vector<int64_t>, std::vector<Site>> without_cut;
  for (const Site& site : sites) {
    const Train train = train_of(config, site);
    if (train.cut == 0) without_cut[train.factors].push_back(site);
  }
  for (const auto& [factors, unfit] : without_cut) {
    const bool is_common = factors == config.own<TtloraOptions>().shape;
    const Site& site = unfit.front();
    const int64_t first = output_first(config) ? site.out_features : site.in_features;
    const int64_t second = output_first(config) ? site.in_features : site.out_features;
    errors.add(
        is_common ? "adapter.ttlora.shape" : "adapter.ttlora.shape_pattern",
        fmt::format("[{}] must be factors of {}, then factors of {} ({} dimension first), for {}",
                    fmt::join(factors, ", "), first, second, output_first(config) ? "output" : "input",
                    describe_sites(unfit)),
        fmt::format("for example [{}]{}", fmt::join(automatic_shape(first, second), ", "),
                    is_common ? "; adapter.ttlora.shape_pattern gives modules shapes of their own" : ""));
  }
}

bool check_patterns(const PlanInput& input, ErrorList& errors) {
  bool valid = true;
  for (const auto& [pattern, shape] : input.config.own<TtloraOptions>().shape_pattern) {
    const std::string where = "adapter.ttlora.shape_pattern";
    try {
      const bool used = std::any_of(input.sites.begin(), input.sites.end(),
                                    [&](const Site& site) { return matches_pattern(pattern, site.path); });
      if (!used && input.check_ranks && !input.sites.empty()) {
        errors.add(where, fmt::format("`{}` matches no targeted module, for example {}", pattern,
                                      input.sites.front().path));
      }
    } catch (const std::invalid_argument& error) {
      errors.add(where, error.what());
      valid = false;
    }
    if (shape.empty()) errors.add(where, fmt::format("the shape of `{}` is empty", pattern));
  }
  return valid;
}

std::vector<TensorSpec> ttlora_tensors(const PlanInput& input, ErrorList& errors) {
  const AdapterConfig& config = input.config;
  if (input.check_ranks) check_rank("adapter.rank", config.rank, input.sites, errors);
  if (!check_patterns(input, errors)) return {};
  const size_t problems = errors.size();
  check_cuts(config, input.sites, errors);
  if (errors.size() > problems) return {};
  std::vector<TensorSpec> specs;
  for (const Site& site : input.sites) {
    const auto shapes = core_shapes(train_of(config, site).factors, config.rank);
    for (size_t k = 0; k < shapes.size(); ++k)
      specs.push_back({core_name(site, k), shapes[k], 0, site.layer});
  }
  return specs;
}

class TtloraAdapter : public ComputedLowRank {
 public:
  explicit TtloraAdapter(MethodInput input)
      : ComputedLowRank(std::move(input.config), std::move(input.target), std::move(input.sites)) {
    for (const Site& site : sites_) {
      trains_.push_back(train_of(config_, site));
      std::vector<at::Tensor> cores = initial_cores(site, trains_.back(), input.seed);
      for (size_t k = 0; k < cores.size(); ++k) {
        cores[k] = add_trainable(core_name(site, k), cores[k].to(factor_options(site)).contiguous());
      }
      cores_.push_back(std::move(cores));
    }
  }

  std::vector<LowRankTerm> terms(size_t site_index) const override {
    const Site& site = sites_.at(site_index);
    const TrainSides sides = sides_at_cut(cores_[site_index], trains_[site_index].cut);
    LowRankTerm term;
    if (output_first(config_)) {
      term.up = sides.left;
      term.down = sides.right;
    } else {
      term.down = (reverses_input() ? reversed(sides.left, trains_[site_index], true) : sides.left).t();
      term.up = sides.right.t();
    }
    term.scaling = config_.alpha;
    term.dropout = config_.dropout;
    term.dropout_stream = hash_name(fmt::format("{}.tt_dropout", site.path));
    return {term};
  }

 private:
  bool reverses_input() const { return config_.own<TtloraOptions>().convention == "lanl_contract"; }

  /// Rows of a matrix in the order of the input factors (i_1 ... i_m) to the order (i_m ... i_1), or back.
  static at::Tensor reversed(const at::Tensor& rows, const Train& train, bool forwards) {
    std::vector<int64_t> extents(train.factors.begin(),
                                 train.factors.begin() + static_cast<std::ptrdiff_t>(train.cut));
    if (!forwards) std::reverse(extents.begin(), extents.end());
    std::vector<int64_t> axes;
    for (auto k = static_cast<int64_t>(extents.size()); k-- > 0;) axes.push_back(k);
    axes.push_back(static_cast<int64_t>(extents.size()));
    extents.push_back(-1);
    return rows.reshape(extents).permute(axes).reshape({rows.size(0), rows.size(1)});
  }

  std::vector<at::Tensor> initial_cores(const Site& site, const Train& train, uint64_t seed) const {
    const c10::NoGradGuard no_grad;
    std::vector<at::Tensor> cores;
    const auto shapes = core_shapes(train.factors, config_.rank);
    for (size_t k = 0; k < shapes.size(); ++k) {
      at::Tensor core = draw_uniform(shapes[k], 1.0, seed, core_name(site, k));
      cores.push_back(core / core.norm());
    }
    if (config_.own<TtloraOptions>().init == "zero_last") cores.back().zero_();
    if (config_.own<TtloraOptions>().init != "tt_svd") return cores;
    // Kaiming-uniform with a = sqrt(8), as the authors fill the matrix that they decompose.
    const double bound = std::sqrt(2.0 / (3.0 * static_cast<double>(site.in_features)));
    at::Tensor matrix = draw_uniform({site.out_features, site.in_features}, bound, seed,
                                     fmt::format("{}.tt_matrix", site.path));
    if (!output_first(config_)) matrix = matrix.t();
    if (reverses_input()) matrix = reversed(matrix, train, false);
    return tensor_train_svd(matrix, train.factors, config_.rank, cores);
  }

  std::vector<Train> trains_;
  std::vector<std::vector<at::Tensor>> cores_;
};

}  // namespace

Method ttlora_method() {
  Method method;
  method.name = "ttlora";
  method.summary = "The update of each module is a tensor train (2024)";
  method.options = OptionGroup(TtloraOptions(),
                               "Options of method ttlora, whose update adapter.alpha multiplies directly");
  method.unused = {{"init"}, {"use_rslora"}};
  method.tensors = ttlora_tensors;
  method.create = [](MethodInput in) { return std::make_unique<TtloraAdapter>(std::move(in)); };
  return method;
}

}  // namespace msplora::detail
