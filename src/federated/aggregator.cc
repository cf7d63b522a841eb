#include "msplora/federated/aggregator.h"

#include <ATen/TensorOperators.h>
#include <fmt/format.h>

#include <fmt/ranges.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "federated/aggregators.h"
#include "msplora/core/error.h"
#include "msplora/federated/options.h"

namespace msplora {
namespace {

using detail::LowRank;

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

LowRank product_of(const FactorPair& pair) {
  return {pair.up * pair.scaling, pair.down};
}

std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes(), ", "));
}

void check_pair(const FactorPair& global, const FactorPair& pair, const AggregatorTraits& traits,
                const std::string& where, ErrorList& errors) {
  if (pair.name != global.name) {
    errors.add(where, fmt::format("expected the factors of {}, found those of {}", global.name, pair.name));
    return;
  }
  const bool fits = pair.down.dim() == 2 && pair.up.dim() == 2 && pair.down.size(0) == pair.up.size(1) &&
                    pair.down.size(1) == global.down.size(1) && pair.up.size(0) == global.up.size(0);
  if (!fits) {
    errors.add(where + ": " + pair.name,
               fmt::format("expected A [r, {}] and B [{}, r], found {} and {}", global.down.size(1),
                           global.up.size(0), shape_text(pair.down), shape_text(pair.up)));
  } else if (!traits.mixed_ranks && (pair.rank() != global.rank() || pair.scaling != global.scaling)) {
    errors.add(where + ": " + pair.name,
               fmt::format("expected rank {} and scaling {}, found {} and {}", global.rank(), global.scaling,
                           pair.rank(), pair.scaling),
               "clients of different ranks need flexlora or flora");
  }
}

void check_updates(const std::vector<FactorPair>& global, const std::vector<ClientUpdate>& updates,
                   const AggregatorTraits& traits) {
  ErrorList errors;
  for (const ClientUpdate& update : updates) {
    const std::string where = fmt::format("client {}", update.client);
    if (update.pairs.size() != global.size()) {
      errors.add(where,
                 fmt::format("expected {} pairs of factors, found {}", global.size(), update.pairs.size()));
      continue;
    }
    for (size_t i = 0; i < global.size(); ++i) check_pair(global[i], update.pairs[i], traits, where, errors);
    const std::vector<NamedTensor>& first = updates.front().others;
    for (size_t i = 0; i < std::max(first.size(), update.others.size()); ++i) {
      const bool fits = i < first.size() && i < update.others.size() &&
                        first[i].name == update.others[i].name &&
                        first[i].tensor.sizes() == update.others[i].tensor.sizes();
      if (!fits) {
        errors.add(where,
                   fmt::format("its heads and biases are not those of client {}", updates.front().client));
        break;
      }
    }
  }
  errors.throw_if_any(ErrorCode::kModel, "the updates of the clients do not fit");
}

void check_weights(const std::vector<ClientUpdate>& updates, const std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const bool negative = std::any_of(weights.begin(), weights.end(), [](double w) { return !(w >= 0.0); });
  if (updates.empty() || weights.size() != updates.size() || negative || !(std::abs(sum - 1.0) < 1e-9)) {
    throw Error(
        ErrorCode::kUsage, "aggregation",
        fmt::format("expected one weight for each update, not negative and with the sum 1; found {} updates "
                    "and {} weights of sum {}",
                    updates.size(), weights.size(), sum));
  }
}

/// In the order of the clients, so that the order in which they answered does not even show in rounding.
void sort_by_client(std::vector<ClientUpdate>& updates, std::vector<double>& weights) {
  std::vector<size_t> order(updates.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return updates[a].client < updates[b].client; });
  std::vector<ClientUpdate> sorted;
  std::vector<double> sorted_weights;
  for (const size_t i : order) {
    sorted.push_back(std::move(updates[i]));
    sorted_weights.push_back(weights[i]);
  }
  updates = std::move(sorted);
  weights = std::move(sorted_weights);
}

/// Sums over pairs; ratios are taken at the end.
struct ErrorSums {
  double ideal = 0.0, used = 0.0, difference = 0.0, inner = 0.0;  // squares but for `inner`

  void add(const ErrorSums& other) {
    ideal += other.ideal;
    used += other.used;
    difference += other.difference;
    inner += other.inner;
  }

  AggregationError report(std::string name) const {
    AggregationError error;
    error.name = std::move(name);
    error.norm = std::sqrt(ideal);
    if (ideal > 0.0) {
      error.error = std::sqrt(difference / ideal);
      error.cosine = used > 0.0 ? inner / std::sqrt(ideal * used) : kUndefined;
    } else if (difference > 0.0) {
      error.error = error.cosine = kUndefined;
    }
    return error;
  }
};

ErrorSums compare(const LowRank& ideal, const LowRank& used) {
  const auto square = [](double x) { return x * x; };
  ErrorSums sums;
  sums.ideal = square(detail::frobenius_norm(ideal));
  sums.used = square(detail::frobenius_norm(used));
  sums.difference = square(detail::frobenius_norm(detail::plus(ideal, used, -1.0)));
  sums.inner = detail::inner_product(ideal, used);
  return sums;
}

std::vector<NamedTensor> averaged_others(const std::vector<ClientUpdate>& updates,
                                         const std::vector<double>& weights) {
  std::vector<NamedTensor> means;
  for (size_t i = 0; i < updates.front().others.size(); ++i) {
    std::vector<at::Tensor> tensors;
    for (const ClientUpdate& update : updates) tensors.push_back(update.others[i].tensor);
    means.push_back({updates.front().others[i].name, detail::weighted_mean(tensors, weights)});
  }
  return means;
}

}  // namespace

Aggregate aggregate(const AggregatorKind& kind, const OptionGroup& options,
                    const std::vector<FactorPair>& global, std::vector<ClientUpdate> updates,
                    std::vector<double> weights) {
  check_weights(updates, weights);
  check_updates(global, updates, kind.traits);
  sort_by_client(updates, weights);
  Aggregate result;
  ErrorSums total;
  double corrections = 0.0;
  for (size_t i = 0; i < global.size(); ++i) {
    std::vector<FactorPair> pairs;
    for (const ClientUpdate& update : updates) pairs.push_back(update.pairs[i]);
    Combined combined = kind.combine(options, global[i], pairs, weights);
    LowRank used = product_of(combined.next);
    if (combined.merged) used = detail::plus(used, product_of(*combined.merged));
    const ErrorSums sums = compare(detail::ideal_update(pairs, weights), used);
    total.add(sums);
    result.errors.push_back(sums.report(global[i].name));
    result.errors.back().correction = combined.correction;
    corrections += combined.correction;
    result.pairs.push_back(std::move(combined.next));
    if (combined.merged) result.merged.push_back(std::move(*combined.merged));
  }
  result.total = total.report("all");
  if (!global.empty()) result.total.correction = corrections / static_cast<double>(global.size());
  result.others = averaged_others(updates, weights);
  return result;
}

const std::vector<AggregatorKind>& aggregators() {
#define MSPLORA_MAKE_AGGREGATOR(NAME) detail::NAME##_aggregator(),
  static const std::vector<AggregatorKind> kinds = {MSPLORA_AGGREGATORS(MSPLORA_MAKE_AGGREGATOR)};
#undef MSPLORA_MAKE_AGGREGATOR
  return kinds;
}

const AggregatorKind& aggregator_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const AggregatorKind& kind : aggregators()) {
    if (kind.name == name) return kind;
    names.push_back(kind.name);
  }
  throw Error(ErrorCode::kConfig, "federated.aggregator", fmt::format("unknown aggregator `{}`", name),
              did_you_mean(name, names));
}

std::vector<std::pair<std::string, OptionGroup>> FederatedOptions::default_groups() {
  std::vector<std::pair<std::string, OptionGroup>> groups;
  for (const AggregatorKind& kind : aggregators()) {
    if (!kind.options.empty()) groups.emplace_back(kind.group, kind.options);
  }
  return groups;
}

std::vector<std::string> FederatedOptions::aggregator_names() {
  std::vector<std::string> names;
  for (const AggregatorKind& kind : aggregators()) names.push_back(kind.name);
  return names;
}

const OptionGroup& FederatedOptions::own() const {
  static const OptionGroup none;
  const std::string& wanted = aggregator_kind(aggregator).group;
  for (const auto& [name, group] : groups) {
    if (name == wanted) return group;
  }
  return none;
}

std::string not_finite_tensor(const ClientUpdate& update) {
  const auto is_finite = [](const at::Tensor& tensor) { return tensor.isfinite().all().item<bool>(); };
  for (const FactorPair& pair : update.pairs) {
    if (!is_finite(pair.down)) return pair.name + " (A)";
    if (!is_finite(pair.up)) return pair.name + " (B)";
  }
  for (const NamedTensor& other : update.others) {
    if (!is_finite(other.tensor)) return other.name;
  }
  return {};
}

std::vector<double> client_weights(const std::vector<ClientUpdate>& updates, const std::string& weighting) {
  double total = 0.0;
  std::vector<double> weights;
  for (const ClientUpdate& update : updates) {
    weights.push_back(weighting == "uniform" ? 1.0 : static_cast<double>(update.examples));
    total += weights.back();
  }
  for (double& weight : weights) weight /= total;
  return weights;
}

FactorPair truncated(const FactorPair& pair, int64_t rank, double scaling) {
  FactorPair result = pair;
  if (rank < pair.rank()) {
    result.down = pair.down.slice(0, 0, rank).contiguous();
    result.up = pair.up.slice(1, 0, rank).contiguous();
  }
  if (scaling != pair.scaling) result.up = result.up * (pair.scaling / scaling);
  result.scaling = scaling;
  return result;
}

namespace detail {

FactorPair mean_pair(const FactorPair& global, const std::vector<FactorPair>& pairs,
                     const std::vector<double>& weights) {
  return {global.name, weighted_mean(downs_of(pairs), weights), weighted_mean(ups_of(pairs), weights),
          global.scaling};
}

std::vector<at::Tensor> downs_of(const std::vector<FactorPair>& pairs) {
  std::vector<at::Tensor> tensors;
  for (const FactorPair& pair : pairs) tensors.push_back(pair.down);
  return tensors;
}

std::vector<at::Tensor> ups_of(const std::vector<FactorPair>& pairs) {
  std::vector<at::Tensor> tensors;
  for (const FactorPair& pair : pairs) tensors.push_back(pair.up);
  return tensors;
}

LowRank ideal_update(const std::vector<FactorPair>& pairs, const std::vector<double>& weights) {
  LowRank sum;
  for (size_t k = 0; k < pairs.size(); ++k) {
    sum = plus(sum, {pairs[k].up, pairs[k].down}, weights[k] * pairs[k].scaling);
  }
  return sum;
}

}  // namespace detail
}  // namespace msplora
