#include "msplora/tasks/intrinsic_dimension.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/cdist.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/unique_dim.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/core/stopwatch.h"
#include "msplora/data/batching.h"
#include "msplora/tasks/inputs.h"

namespace msplora {
namespace {

constexpr int64_t kChunk = 256;

/// ln(r2 / r1) of every point, ascending.
std::vector<double> log_ratios(const at::Tensor& points) {
  std::vector<double> ratios;
  for (int64_t begin = 0; begin < points.size(0); begin += kChunk) {
    const at::Tensor rows = points.slice(0, begin, std::min(begin + kChunk, points.size(0)));
    const at::Tensor distances = at::cdist(rows, points, 2.0, /*compute_mode=*/2);  // 2: by differences
    // The nearest of all is the point itself.
    const at::Tensor nearest = std::get<0>(distances.topk(3, 1, /*largest=*/false, /*sorted=*/true));
    for (int64_t i = 0; i < nearest.size(0); ++i) {
      const double first = nearest[i][1].item<double>(), second = nearest[i][2].item<double>();
      if (first > 0) ratios.push_back(std::log(second / first));
    }
  }
  std::sort(ratios.begin(), ratios.end());
  return ratios;
}

double regression(const std::vector<double>& ratios, double discard) {
  const auto count = static_cast<double>(ratios.size());
  // The last ratio has F = 1, whose logarithm is infinite.
  const auto kept = std::min(ratios.size() - 1, static_cast<size_t>(count * (1.0 - discard) + 1e-9));
  double xy = 0.0, xx = 0.0;
  for (size_t k = 0; k < kept; ++k) {
    xy -= ratios[k] * std::log(1.0 - static_cast<double>(k + 1) / count);
    xx += ratios[k] * ratios[k];
  }
  return xy / xx;
}

/// One row for each sequence of the batch.
at::Tensor pool(const at::Tensor& hidden, const std::vector<int32_t>& bounds, const std::string& pooling) {
  std::vector<at::Tensor> rows;
  for (size_t b = 0; b + 1 < bounds.size(); ++b) {
    const int64_t begin = bounds[b], end = bounds[b + 1];
    if (pooling == "first") {
      rows.push_back(hidden[begin].to(at::kFloat));
    } else if (pooling == "last") {
      rows.push_back(hidden[end - 1].to(at::kFloat));
    } else {
      rows.push_back(hidden.slice(0, begin, end).to(at::kFloat).mean(0));
    }
  }
  return at::stack(rows);
}

Examples choose(const Examples& examples, int64_t count, uint64_t seed) {
  if (static_cast<int64_t>(examples.size) <= count) return examples;
  std::vector<uint32_t> order(examples.size);
  std::iota(order.begin(), order.end(), 0U);
  RandomStream(seed, "dimension profile").shuffle(order);
  order.resize(static_cast<size_t>(count));
  return part_of(examples, std::move(order));
}

Batch batch_of(const Examples& examples, std::span<const uint32_t> indices) {
  std::vector<TokenizedExample> taken;
  for (const uint32_t index : indices) taken.push_back(examples.get(index));
  return pack(taken, indices);
}

/// Pooled hidden states [N, hidden_size] of every layer.
std::vector<at::Tensor> pooled_states(Model& model, const Examples& examples, const std::string& pooling,
                                      int64_t batch_tokens) {
  std::vector<std::vector<at::Tensor>> parts(static_cast<size_t>(model.architecture().num_layers()) + 1);
  BatchOptions options;
  options.token_budget = batch_tokens;
  const BatchList batches = BatchPlan(lengths_of(examples), options).sequential();
  for (size_t i = 0; i < batches.size(); ++i) {
    const PackedInput input = packed_input(batch_of(examples, batches[i]));
    ForwardContext context;
    context.observe_hidden = [&](int64_t layer, const at::Tensor& hidden) {
      parts.at(static_cast<size_t>(layer)).push_back(pool(hidden, input.cu_seqlens, pooling));
    };
    model.forward(input, context);
  }
  std::vector<at::Tensor> states;
  for (const auto& layer : parts) {
    if (layer.empty()) {
      throw Error(ErrorCode::kModel, model.config().model_type, "the model does not show its hidden states");
    }
    states.push_back(at::cat(layer, 0));
  }
  return states;
}

}  // namespace

TwoNnEstimator parse_two_nn_estimator(const std::string& name) {
  if (name == "likelihood") return TwoNnEstimator::kLikelihood;
  return name == "unbiased" ? TwoNnEstimator::kUnbiased : TwoNnEstimator::kRegression;
}

double two_nn_dimension(const at::Tensor& points, TwoNnEstimator estimator, double discard) {
  const c10::NoGradGuard no_grad;
  const at::Tensor exact = points.to(at::kCPU, at::kDouble).contiguous();
  if (!at::isfinite(exact).all().item<bool>()) {
    throw Error(ErrorCode::kNumerics, "intrinsic dimension", "a point is not finite");
  }
  const at::Tensor different = std::get<0>(at::unique_dim(exact, 0));
  if (different.size(0) == 1) return 0.0;
  if (different.size(0) < 3) {
    throw Error(
        ErrorCode::kData, "intrinsic dimension",
        fmt::format(
            "{} different points among {}; 3 are the least, some hundred are needed for a good estimate",
            different.size(0), points.size(0)));
  }
  const std::vector<double> ratios = log_ratios(different);
  const double sum = std::accumulate(ratios.begin(), ratios.end(), 0.0);
  const auto count = static_cast<double>(ratios.size());
  double dimension = 0.0;
  if (ratios.size() > 1) {
    dimension = estimator == TwoNnEstimator::kRegression   ? regression(ratios, discard)
                : estimator == TwoNnEstimator::kLikelihood ? count / sum
                                                           : (count - 1.0) / sum;
  }
  if (sum > 0 && std::isfinite(dimension)) return dimension;
  throw Error(ErrorCode::kNumerics, "intrinsic dimension",
              "the points lie at equal distances, so that they have no dimension", "other or more points");
}

DimensionProfile dimension_profile(Model& model, const Examples& examples, const GeLoraOptions& options,
                                   uint64_t seed, int64_t batch_tokens) {
  const c10::NoGradGuard no_grad;
  const Stopwatch watch;
  const Examples chosen = choose(examples, options.samples, seed);
  DimensionProfile profile;
  profile.examples = static_cast<int64_t>(chosen.size);
  const TwoNnEstimator estimator = parse_two_nn_estimator(options.estimator);
  for (const at::Tensor& states : pooled_states(model, chosen, options.pooling, batch_tokens)) {
    try {
      profile.dimensions.push_back(two_nn_dimension(states, estimator, options.discard));
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("intrinsic dimension behind layer {}", profile.dimensions.size()),
                  error.message(), error.hint());
    }
  }
  profile.seconds = watch.seconds();
  return profile;
}

}  // namespace msplora
