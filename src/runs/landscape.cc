#include "msplora/runs/landscape.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

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
  return (a * b).sum().item<double>();
}

void check(const Adapter& adapter) {
  for (const Site& site : adapter.sites()) {
    if (site.role == LinearRole::kWords || site.role == LinearRole::kOutput) {
      throw Error(ErrorCode::kUsage, "landscape",
                  fmt::format("{} is no layer between the table of words and the logits", site.path),
                  "adapters of such layers alone can be looked at");
    }
  }
}

/// The adapted layers with dense weights of their own in place of the adapter; they get theirs back at the
/// end.
class DenseWeights {
 public:
  explicit DenseWeights(Adapter& adapter) : adapter_(adapter) {
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < adapter.sites().size(); ++i) {
      const Linear& layer = *adapter.sites()[i].linear;
      const SiteChange change = adapter.change_of(i);
      kept_.push_back({*layer.weight, layer.bias});
      tuned_.push_back((layer.weight->values() + change.weight).to(layer.weight->dtype()).contiguous());
      biases_.push_back(change.bias.defined() ? layer.bias + change.bias : layer.bias);
    }
    adapter_.detach();
    for (size_t i = 0; i < tuned_.size(); ++i) {
      layer(i).weight->set(tuned_[i]);
      layer(i).bias = biases_[i];
    }
  }
  ~DenseWeights() {
    for (size_t i = 0; i < kept_.size(); ++i) {
      *layer(i).weight = kept_[i].first;
      layer(i).bias = kept_[i].second;
    }
    adapter_.attach();
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
  at::Tensor gradient(size_t site) { return wide(layer(site).weight->tensor().grad()); }

 private:
  Linear& layer(size_t site) const { return *adapter_.sites()[site].linear; }

  Adapter& adapter_;
  std::vector<std::pair<Weight, at::Tensor>> kept_;
  std::vector<at::Tensor> tuned_, biases_;
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

std::vector<double> random_losses(DenseWeights& weights, const std::vector<Site>& sites, const MeanLoss& loss,
                                  double strength, const LandscapeOptions& options) {
  std::vector<double> losses;
  for (int64_t draw = 0; draw < options.draws; ++draw) {
    for (size_t i = 0; i < weights.size(); ++i) {
      const at::Tensor w = weights.tuned(i).to(at::kCPU, at::kFloat);
      const at::Tensor rows = w.norm(2, {1}, /*keepdim=*/true) / std::sqrt(static_cast<double>(w.size(1)));
      const uint64_t seed = mix_seed(options.seed, static_cast<uint64_t>(draw));
      weights.set(i, w + normal_like(w, seed, sites[i].path) * rows * strength);
    }
    losses.push_back(loss(/*with_gradients=*/false));
  }
  return losses;
}

double uphill_loss(DenseWeights& weights, const std::vector<at::Tensor>& gradients, double gradient_norm,
                   const MeanLoss& loss, double strength) {
  double square = 0.0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const at::Tensor w = wide(weights.tuned(i));
    square += frobenius(w, w);
  }
  const double step = gradient_norm > 0.0 ? strength * std::sqrt(square) / gradient_norm : 0.0;
  for (size_t i = 0; i < weights.size(); ++i) weights.set(i, wide(weights.tuned(i)) + gradients[i] * step);
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

double cosine(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double ab = 0.0, aa = 0.0, bb = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += frobenius(a[i], b[i]);
    aa += frobenius(a[i], a[i]);
    bb += frobenius(b[i], b[i]);
  }
  return aa > 0.0 && bb > 0.0 ? ab / std::sqrt(aa * bb) : 0.0;
}

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
    double sum = 0.0;
    for (const size_t i : members) {
      stack.layers.push_back(sites[i].layer);
      std::vector<double>& row = stack.cosines.emplace_back();
      for (const size_t j : members) row.push_back(i == j ? 1.0 : cosine({gradients[i]}, {gradients[j]}));
      sum += std::accumulate(row.begin(), row.end(), -1.0);
    }
    const auto count = static_cast<double>(members.size());
    stack.mean = sum / (count * (count - 1.0));
  }
  return compared;
}

/// The change of one site's weight by a plain gradient step, and the nearest there is.
void fit_gradients(const Adapter& adapter, const std::vector<at::Tensor>& gradients, Landscape& result) {
  FactorGradients factors;
  std::vector<std::vector<LowRankTerm>> terms;
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (!adapter.weight_scaling(i).empty()) return;
    terms.push_back(adapter.terms(i));
    for (const LowRankTerm& term : terms.back()) {
      if (!term.down.requires_grad() || !term.up.requires_grad() || !term.down.is_leaf() ||
          !term.up.is_leaf())
        return;
      factors.add(term.down, wide(term.up).t().mm(gradients[i]) * term.scaling);
      factors.add(term.up, gradients[i].mm(wide(term.down).t()) * term.scaling);
    }
  }
  std::vector<at::Tensor> plain, nearest;
  for (size_t i = 0; i < gradients.size(); ++i) {
    at::Tensor change = at::zeros_like(gradients[i]);
    for (const LowRankTerm& term : terms[i]) {
      change +=
          (wide(term.up).mm(factors.of(term.down)) + factors.of(term.up).mm(wide(term.down))) * term.scaling;
    }
    plain.push_back(change);
    if (terms[i].size() != 1 || factors.is_shared()) continue;
    const at::Tensor left = projected(wide(terms[i][0].up), gradients[i]);
    const at::Tensor rest = gradients[i] - left;
    nearest.push_back(left + projected(wide(terms[i][0].down).t(), rest.t()).t());
  }
  result.plain_cosine = cosine(plain, gradients);
  if (nearest.size() == gradients.size()) result.nearest_cosine = cosine(nearest, gradients);
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
  double square = 0.0;
  for (size_t i = 0; i < weights.size(); ++i) {
    gradients.push_back(weights.gradient(i));
    square += frobenius(gradients[i], gradients[i]);
  }
  result.gradient_norm = std::sqrt(square);

  for (const TrainableTensor& tensor : adapter.trainable()) {
    at::Tensor trained = tensor.tensor;  // heads had gradients too
    trained.mutable_grad().reset();
  }

  const c10::NoGradGuard no_grad;
  fit_gradients(adapter, gradients, result);
  result.layers = compare_layers(adapter.sites(), gradients);
  constexpr double kUphillShare = 0.1;
  for (const double strength : options.strengths) {
    Landscape::Around around;
    around.strength = strength;
    around.random = random_losses(weights, adapter.sites(), loss, strength, options);
    around.uphill = uphill_loss(weights, gradients, result.gradient_norm, loss, kUphillShare * strength);
    result.around.push_back(std::move(around));
  }
  return result;
}

}  // namespace msplora
