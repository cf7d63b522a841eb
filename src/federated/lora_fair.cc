// LoRA-FAIR (Bian et al., ICCV 2025, arXiv 2411.14961): averaged factors with a correction C of B. C
// minimises, by descent from C = 0, 1 - cos(dW, (B + C) A) + lambda ||C||² (eq. 8); or ||R - C A||² + lambda
// ||C||² with R = sum p_k (B_k - B)(A_k - A) = dW - B A, so that C = R Aᵀ (A Aᵀ + lambda I)^-1.
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "federated/aggregators.h"

namespace msplora::detail {
namespace {

struct FairOptions {
  std::string solver = "cosine";
  double lambda = 0.01;
  bool lambda_relative = false;
  int64_t iterations = 1000;
  double step = 0.01;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("solver", solver,
            "`cosine`: descent on 1 - cosine from a zero correction, as in the paper (eq. 8); `closed_form`: "
            "least squares with a ridge",
            one_of({"cosine", "closed_form"}));
    visitor("lambda", lambda, "Weight of the squared size of the correction", at_least(0));
    visitor("lambda_relative", lambda_relative,
            "Multiply lambda by the mean square length of the rows of the averaged A");
    visitor("iterations", iterations, "cosine: most steps", at_least(1));
    visitor("step", step,
            "cosine: first step size; halved when the objective rises, half as much again when it falls",
            above(0));
  }
};

double square_sum(const at::Tensor& tensor) {
  return tensor.square().sum().item<double>();
}

/// R Aᵀ for the residual R = sum of p_k (B_k - B)(A_k - A), without an array of the size of the weight.
/// Written with differences, so that nothing cancels and equal clients give exactly zero.
at::Tensor residual_times_down(const FactorPair& mean, const std::vector<FactorPair>& pairs,
                               const std::vector<double>& weights) {
  at::Tensor sum = at::zeros_like(mean.up);
  for (size_t k = 0; k < pairs.size(); ++k) {
    const at::Tensor core = at::mm(pairs[k].down - mean.down, mean.down.t());
    sum.add_(at::mm(pairs[k].up - mean.up, core), weights[k]);
  }
  return sum;
}

/// C (gram + lambda I) = right. Directions in which the left side vanishes (lambda = 0 and dependent rows of
/// A) get no correction: there `right` is zero too.
at::Tensor ridge_solution(const at::Tensor& right, const at::Tensor& gram, double lambda) {
  const auto [values, vectors] = at::linalg_eigh(gram);
  const at::Tensor shifted = values + lambda;
  const double largest = shifted.max().item<double>();
  const at::Tensor usable = shifted > 1e-14 * std::max(largest, 0.0);
  const at::Tensor inverse = at::where(usable, shifted.reciprocal(), at::zeros_like(shifted));
  return at::mm(at::mm(right, vectors) * inverse, vectors.t());
}

/// 1 - cos(dW, B A) + lambda ||B - B_0||² and its gradient in B, from P = dW Aᵀ and G = A Aᵀ:
/// <dW, B A> = <P, B> and ||B A||² = <B G, B>.
class CosineObjective {
 public:
  CosineObjective(const LowRank& ideal, const FactorPair& mean, double lambda)
      : target_(at::mm(ideal.up, at::mm(ideal.down, mean.down.t()))),
        gram_(at::mm(mean.down, mean.down.t())),
        start_(mean.up),
        ideal_norm_(frobenius_norm(ideal)),
        lambda_(lambda) {}

  bool is_defined() const { return ideal_norm_ > 0.0 && square_sum(at::mm(start_, gram_)) > 0.0; }

  double value(const at::Tensor& up, at::Tensor* gradient = nullptr) const {
    const at::Tensor up_gram = at::mm(up, gram_);
    const double inner = (target_ * up).sum().item<double>();
    const double norm = std::sqrt((up_gram * up).sum().item<double>());
    const at::Tensor correction = up - start_;
    if (gradient != nullptr) {
      *gradient = correction * (2.0 * lambda_) - target_ / (ideal_norm_ * norm) +
                  up_gram * (inner / (ideal_norm_ * norm * norm * norm));
    }
    return 1.0 - inner / (ideal_norm_ * norm) + lambda_ * square_sum(correction);
  }

 private:
  at::Tensor target_, gram_, start_;
  double ideal_norm_, lambda_;
};

/// Gradient descent that takes no step uphill: its length is halved instead, and grows as long as it goes
/// down, since how steep the cosine is depends on the size of B A.
at::Tensor cosine_descent(const CosineObjective& objective, const at::Tensor& start,
                          const FairOptions& options) {
  constexpr double kSmallestStep = 1e-14;
  constexpr double kTolerance = 1e-10;  // of the objective, which starts at 2 or less
  constexpr int kQuietSteps = 5;
  constexpr double kGrowth = 1.5;
  at::Tensor up = start.clone(), gradient;
  double value = objective.value(up, &gradient);
  double step = options.step;
  int quiet = 0;
  for (int64_t i = 0; i < options.iterations && quiet < kQuietSteps && step > kSmallestStep; ++i) {
    const at::Tensor candidate = up - gradient * step;
    at::Tensor next_gradient;
    const double next = objective.value(candidate, &next_gradient);
    if (!(next <= value)) {
      step *= 0.5;
      continue;
    }
    quiet = value - next < kTolerance ? quiet + 1 : 0;
    step *= kGrowth;
    up = candidate;
    gradient = next_gradient;
    value = next;
  }
  return up - start;
}

at::Tensor correction_of(const FactorPair& mean, const std::vector<FactorPair>& pairs,
                         const std::vector<double>& weights, const FairOptions& options) {
  const at::Tensor right = residual_times_down(mean, pairs, weights);
  if (square_sum(right) == 0.0) return at::zeros_like(mean.up);  // nothing that a change of B could mend
  const at::Tensor gram = at::mm(mean.down, mean.down.t());
  double lambda = options.lambda;
  if (options.lambda_relative) lambda *= gram.trace().item<double>() / static_cast<double>(mean.rank());
  if (options.solver == "closed_form") return ridge_solution(right, gram, lambda);
  // The common scaling cancels in the cosine.
  LowRank ideal = ideal_update(pairs, weights);
  ideal.up = ideal.up / mean.scaling;
  const CosineObjective objective(ideal, mean, lambda);
  return objective.is_defined() ? cosine_descent(objective, mean.up, options) : at::zeros_like(mean.up);
}

Combined combine_lora_fair(const OptionGroup& options, const FactorPair& global,
                           const std::vector<FactorPair>& pairs, const std::vector<double>& weights) {
  Combined result;
  result.next = mean_pair(global, pairs, weights);
  at::Tensor& up = result.next.up;
  const at::Tensor correction = correction_of(result.next, pairs, weights, *options.as<FairOptions>());
  const double size = square_sum(up);
  result.correction = size > 0.0 ? std::sqrt(square_sum(correction) / size) : 0.0;
  up = up + correction;
  return result;
}

}  // namespace

AggregatorKind lora_fair_aggregator() {
  AggregatorKind kind;
  kind.name = "lora_fair";
  kind.options = OptionGroup(FairOptions(), "The correction of lora_fair");
  kind.group = "fair";
  kind.combine = combine_lora_fair;
  kind.line = [](const OptionGroup& options) {
    const FairOptions& fair = *options.as<FairOptions>();
    return fmt::format(" ({}, lambda {}{})", fair.solver, fair.lambda,
                       fair.lambda_relative ? ", relative" : "");
  };
  kind.unused = [](const OptionGroup& options) {
    return options.as<FairOptions>()->solver == "cosine" ? std::vector<std::string>()
                                                         : std::vector<std::string>{"iterations", "step"};
  };
  return kind;
}

}  // namespace msplora::detail
