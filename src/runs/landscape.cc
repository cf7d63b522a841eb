#include "msplora/runs/landscape.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

#include "adapters/equivalent_gradient.h"
#include "adapters/merged_sites.h"
#include "msplora/core/error.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/random.h"
#include "msplora/data/batching.h"

namespace msplora {
namespace {

at::Tensor wide(const at::Tensor& tensor) {
  return tensor.detach().to(at::kCPU, at::kDouble);
}

double frobenius(const at::Tensor& a, const at::Tensor& b) {
  return a.flatten().dot(b.flatten()).item<double>();
}

double squares(const at::Tensor& a) {
  const auto norm = wide(a).norm().item<double>();
  return norm * norm;
}

void check(const Adapter& adapter) {
  if (adapter.sites().empty()) {
    throw Error(ErrorCode::kUsage, "landscape",
                fmt::format("method `{}` puts no update on a layer", adapter.config().method),
                "methods with low-rank updates, or glora");
  }
  for (const Site& site : adapter.sites()) {
    if (site.role == LinearRole::kWords || site.role == LinearRole::kOutput) {
      throw Error(ErrorCode::kUsage, "landscape",
                  fmt::format("{} is no layer between the table of words and the logits", site.path),
                  "adapters of such layers alone can be looked at");
    }
  }
}

/// The adapted layers with the adapter's updates in their weights; they get their own and the updates back at
/// the end. Heads and biases that the adapter trains stay where they are.
class DenseWeights {
 public:
  explicit DenseWeights(Adapter& adapter) : adapter_(adapter) {
    if (!adapter.attached()) throw Error(ErrorCode::kUsage, "landscape", "the adapter is not on the model");
    const c10::NoGradGuard no_grad;
    const auto merged = detail::merged_sites(adapter, layer(0).weight->dtype());
    for (size_t i = 0; i < merged.size(); ++i) {
      kept_.push_back({*layer(i).weight, layer(i).bias, layer(i).update});
      layer(i).weight->set(merged[i].weight);
      if (merged[i].bias.defined()) layer(i).bias = merged[i].bias;
      layer(i).update = nullptr;
      tuned_.push_back(merged[i].weight);
    }
  }
  ~DenseWeights() {
    for (size_t i = 0; i < kept_.size(); ++i) {
      *layer(i).weight = kept_[i].weight;
      layer(i).bias = kept_[i].bias;
      layer(i).update = kept_[i].update;
    }
  }
  DenseWeights(const DenseWeights&) = delete;
  DenseWeights& operator=(const DenseWeights&) = delete;

  size_t size() const { return tuned_.size(); }
  const at::Tensor& tuned(size_t site) const { return tuned_[site]; }
  void set(size_t site, const at::Tensor& weight) {
    layer(site).weight->set(weight.to(tuned_[site].options()).contiguous());
  }
  /// The tuned weights, as tensors that ask for gradients or not.
  void set_tuned(bool requires_grad) {
    for (size_t i = 0; i < size(); ++i)
      layer(i).weight->set(tuned_[i].detach().requires_grad_(requires_grad));
  }
  at::Tensor gradient(size_t site) const { return layer(site).weight->tensor().grad(); }

 private:
  Linear& layer(size_t site) const { return *adapter_.sites()[site].linear; }

  struct Kept {
    Weight weight;
    at::Tensor bias;
    std::shared_ptr<const SiteUpdate> update;
  };

  Adapter& adapter_;
  std::vector<Kept> kept_;
  std::vector<at::Tensor> tuned_;
};

/// The mean loss of all examples, in float64 over batches; with gradients of that mean where weights ask.
class MeanLoss {
 public:
  MeanLoss(const Task& task, Model& model, const Examples& examples, int64_t batch_tokens)
      : task_(task), model_(model), examples_(examples) {
    BatchOptions options;
    options.token_budget = batch_tokens;
    batches_ = BatchPlan(lengths_of(examples), options).sequential();
    targets_ = task.count_targets(examples);
    if (targets_ == 0) throw Error(ErrorCode::kData, "landscape", "there is nothing to measure a loss on");
  }

  int64_t targets() const { return targets_; }

  double operator()(bool with_gradients) const {
    const c10::AutoGradMode mode(with_gradients);
    double sum = 0.0;
    for (size_t i = 0; i < batches_.size(); ++i) {
      if (interrupt_requested()) throw Error(ErrorCode::kInterrupted, "landscape", "interrupted");
      const Batch batch = task_.collate(examples_, batches_[i], kEvaluationEpoch);
      const at::Tensor loss = task_.loss_sum(model_, batch, {});
      if (with_gradients) (loss / static_cast<double>(targets_)).backward();
      sum += loss.detach().item<double>();
    }
    return sum / static_cast<double>(targets_);
  }

 private:
  const Task& task_;
  Model& model_;
  const Examples& examples_;
  BatchList batches_;
  int64_t targets_ = 0;
};

at::Tensor normal_like(const at::Tensor& tensor, uint64_t seed, const std::string& name) {
  at::Tensor noise = at::empty(tensor.sizes(), at::kFloat);
  RandomStream stream(seed, name);
  float* const values = noise.data_ptr<float>();
  for (int64_t i = 0; i < noise.numel(); ++i) values[i] = static_cast<float>(stream.normal());
  return noise;
}

/// The losses of one draw of noise, for each strength.
std::vector<double> noisy_losses(DenseWeights& weights, const std::vector<Site>& sites, const MeanLoss& loss,
                                 uint64_t seed, const std::vector<double>& strengths) {
  std::vector<at::Tensor> noise;
  for (size_t i = 0; i < weights.size(); ++i) {
    const at::Tensor w = weights.tuned(i).to(at::kCPU, at::kFloat);
    const at::Tensor rows = w.norm(2, {1}, /*keepdim=*/true) / std::sqrt(static_cast<double>(w.size(1)));
    noise.push_back(normal_like(w, seed, sites[i].path).mul_(rows));
  }
  std::vector<double> losses;
  for (const double strength : strengths) {
    for (size_t i = 0; i < weights.size(); ++i)
      weights.set(i, weights.tuned(i).to(at::kCPU, at::kFloat) + noise[i] * strength);
    losses.push_back(loss(/*with_gradients=*/false));
  }
  return losses;
}

/// The loss at W' + step G.
double loss_along(DenseWeights& weights, const std::vector<at::Tensor>& gradients, double step,
                  const MeanLoss& loss) {
  for (size_t i = 0; i < weights.size(); ++i)
    weights.set(i, wide(weights.tuned(i)) + wide(gradients[i]) * step);
  return loss(/*with_gradients=*/false);
}

/// One factor with the sum of its gradients over the sites that use it.
struct FactorGradients {
  std::map<const void*, std::pair<at::Tensor, int>> sums;  // and the number of uses

  void add(const at::Tensor& factor, const at::Tensor& gradient) {
    auto& [sum, uses] = sums[factor.unsafeGetTensorImpl()];
    sum = sum.defined() ? sum + gradient : gradient;
    ++uses;
  }
  const at::Tensor& of(const at::Tensor& factor) const { return sums.at(factor.unsafeGetTensorImpl()).first; }
  bool is_shared() const {
    for (const auto& [factor, sum] : sums) {
      if (sum.second > 1) return true;
    }
    return false;
  }
};

/// The orthogonal projection of the columns of x on those of the matrix.
at::Tensor projected(const at::Tensor& matrix, const at::Tensor& x) {
  constexpr double kTiny = 1e-12;
  const auto [q, r] = at::linalg_qr(matrix);
  // A factor that is zero (B at the start) spans nothing.
  const at::Tensor counts = (r.diagonal().abs() > kTiny).to(at::kDouble);
  const at::Tensor basis = q * counts;
  return basis.mm(basis.t().mm(x));
}

/// The cosine of two changes of all weights, site by site.
class CosineSum {
 public:
  void add(const at::Tensor& a, const at::Tensor& b) {
    ab_ += frobenius(a, b);
    aa_ += frobenius(a, a);
    bb_ += frobenius(b, b);
  }
  double value() const { return aa_ > 0.0 && bb_ > 0.0 ? ab_ / std::sqrt(aa_ * bb_) : 0.0; }

 private:
  double ab_ = 0.0, aa_ = 0.0, bb_ = 0.0;
};

std::vector<Landscape::Layers> compare_layers(const std::vector<Site>& sites,
                                              const std::vector<at::Tensor>& gradients) {
  std::map<std::tuple<std::string, int64_t, int64_t>, std::vector<size_t>> stacks;
  for (size_t i = 0; i < sites.size(); ++i) {
    if (sites[i].layer >= 0)
      stacks[{sites[i].module, sites[i].out_features, sites[i].in_features}].push_back(i);
  }
  std::vector<Landscape::Layers> compared;
  for (const auto& [key, members] : stacks) {
    if (members.size() < 2) continue;
    Landscape::Layers& stack = compared.emplace_back();
    stack.module = std::get<0>(key);
    const auto [out, in] = std::pair(std::get<1>(key), std::get<2>(key));
    at::Tensor directions = at::empty({static_cast<int64_t>(members.size()), out * in}, at::kDouble);
    for (size_t i = 0; i < members.size(); ++i) {
      stack.layers.push_back(sites[members[i]].layer);
      directions[static_cast<int64_t>(i)].copy_(gradients[members[i]].flatten());
    }
    directions.div_(directions.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-300));
    const at::Tensor cosines = directions.mm(directions.t());
    double sum = 0.0;
    for (size_t i = 0; i < members.size(); ++i) {
      const double* const row = cosines.data_ptr<double>() + i * members.size();
      stack.cosines.emplace_back(row, row + members.size());
      stack.cosines.back()[i] = 1.0;
      sum += std::accumulate(row, row + members.size(), -row[i]);
    }
    const auto count = static_cast<double>(members.size());
    stack.mean = sum / (count * (count - 1.0));
  }
  return compared;
}

/// Whether both factors of a term are trained as they stand.
bool is_trained(const LowRankTerm& term) {
  const auto is_leaf = [](const at::Tensor& factor) { return factor.requires_grad() && factor.is_leaf(); };
  return is_leaf(term.down) && is_leaf(term.up);
}

/// The cosines of the gradient with a plain gradient step, and with the nearest there is.
void fit_gradients(const Adapter& adapter, const std::vector<at::Tensor>& gradients, Landscape& result) {
  FactorGradients factors;
  std::vector<std::vector<LowRankTerm>> terms;
  bool has_one_term = true;
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (!adapter.weight_scaling(i).empty()) return;
    terms.push_back(adapter.terms(i));
    has_one_term = has_one_term && terms.back().size() == 1;
    const at::Tensor gradient = wide(gradients[i]);
    for (const LowRankTerm& term : terms.back()) {
      if (!is_trained(term)) return;
      factors.add(term.down, wide(term.up).t().mm(gradient) * term.scaling);
      factors.add(term.up, gradient.mm(wide(term.down).t()) * term.scaling);
    }
  }
  const bool has_nearest = has_one_term && !factors.is_shared();
  CosineSum plain, nearest;
  for (size_t i = 0; i < gradients.size(); ++i) {
    const at::Tensor gradient = wide(gradients[i]);
    at::Tensor change = at::zeros_like(gradient);
    for (const LowRankTerm& term : terms[i]) {
      change += detail::weight_change({wide(term.down), wide(term.up)},
                                      {factors.of(term.down), factors.of(term.up)}, term.scaling);
    }
    plain.add(change, gradient);
    if (!has_nearest) continue;
    const at::Tensor left = projected(wide(terms[i][0].up), gradient);
    nearest.add(left + projected(wide(terms[i][0].down).t(), (gradient - left).t()).t(), gradient);
  }
  result.plain_cosine = plain.value();
  if (has_nearest) result.nearest_cosine = nearest.value();
}

}  // namespace

Landscape measure_landscape(Model& model, Adapter& adapter, const Task& task, const Examples& examples,
                            const LandscapeOptions& options) {
  check(adapter);
  const MeanLoss loss(task, model, examples, options.batch_tokens);
  Landscape result;
  result.examples = static_cast<int64_t>(examples.size);
  result.targets = loss.targets();

  DenseWeights weights(adapter);
  weights.set_tuned(/*requires_grad=*/true);
  result.loss = loss(/*with_gradients=*/true);
  std::vector<at::Tensor> gradients;
  double gradient_square = 0.0, weight_square = 0.0;
  for (size_t i = 0; i < weights.size(); ++i) {
    gradients.push_back(weights.gradient(i));
    gradient_square += squares(gradients[i]);
    weight_square += squares(weights.tuned(i));
  }
  result.gradient_norm = std::sqrt(gradient_square);
  for (const TrainableTensor& tensor : adapter.trainable()) {
    at::Tensor trained = tensor.tensor;  // heads had gradients too
    trained.mutable_grad().reset();
  }

  const c10::NoGradGuard no_grad;
  fit_gradients(adapter, gradients, result);
  result.layers = compare_layers(adapter.sites(), gradients);
  constexpr double kUphillShare = 0.1;
  for (const double strength : options.strengths) {
    const double length = kUphillShare * strength * std::sqrt(weight_square);
    const double step = gradient_square > 0.0 ? length / result.gradient_norm : 0.0;
    result.around.push_back({strength, {}, loss_along(weights, gradients, step, loss)});
  }
  gradients.clear();
  for (int64_t draw = 0; draw < options.draws; ++draw) {
    const uint64_t seed = mix_seed(options.seed, static_cast<uint64_t>(draw));
    const std::vector<double> losses = noisy_losses(weights, adapter.sites(), loss, seed, options.strengths);
    for (size_t i = 0; i < losses.size(); ++i) result.around[i].random.push_back(losses[i]);
  }
  return result;
}

}  // namespace msplora
