// How the server takes over an aggregate and what it hands out in the end.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/regex.h"
#include "federated/federation_detail.h"

namespace msplora {
namespace detail {

at::Tensor dense(const MergedProduct& product) {
  return at::mm(product.up.to(at::kDouble), product.down.to(at::kDouble)).to(product.up.scalar_type());
}

MergedProduct compact(const MergedProduct& product) {
  const int64_t in = product.down.size(1), out = product.up.size(0);
  if (product.down.size(0) <= std::min(in, out)) return product;
  if (in <= out) return {at::eye(in, product.down.options()), dense(product)};
  return {dense(product), at::eye(out, product.up.options())};
}

}  // namespace detail

namespace {

MergedProduct stacked(const MergedProduct& a, const MergedProduct& b) {
  return {at::cat({a.down, b.down}, 0), at::cat({a.up, b.up}, 1)};
}

}  // namespace

void Federation::take_over(const Aggregate& aggregate) {
  for (size_t i = 0; i < state_.pairs.size(); ++i) {
    state_.pairs[i] = detail::converted(aggregate.pairs[i], state_.pairs[i].up.scalar_type());
  }
  for (size_t i = 0; i < state_.others.size(); ++i) {
    state_.others[i].tensor = aggregate.others[i].tensor.to(state_.others[i].tensor.scalar_type());
  }
  if (traits_.merges) merge(aggregate.merged, state_.round);
}

void Federation::merge(const std::vector<FactorPair>& products, int64_t round) {
  ServerState::Stack stack{round, {}};
  for (size_t i = 0; i < products.size(); ++i) {
    const at::ScalarType dtype = state_.pairs[i].up.scalar_type();
    stack.products.push_back(
        {products[i].down.to(dtype).contiguous(), products[i].up.to(dtype).contiguous()});
    state_.merged[i] = detail::compact(stacked(state_.merged[i], stack.products.back()));
  }
  state_.stacks.push_back(std::move(stack));
  const int64_t oldest = *std::min_element(state_.last_round.begin(), state_.last_round.end());
  std::erase_if(state_.stacks, [&](const ServerState::Stack& old) { return old.round < oldest; });
}

std::unique_ptr<Adapter> Federation::global_adapter() const {
  const Layout& layout = *layouts_.front();
  AdapterConfig config = layout.config;
  const bool is_merged = std::any_of(state_.merged.begin(), state_.merged.end(),
                                     [](const MergedProduct& product) { return product.down.size(0) > 0; });
  std::vector<MergedProduct> products;
  for (size_t i = 0; i < state_.pairs.size(); ++i) {
    const FactorPair& pair = state_.pairs[i];
    if (!is_merged) {
      products.push_back({pair.down, pair.up});
    } else if (traits_.restarts) {  // B is zero
      products.push_back(detail::compact(state_.merged[i]));
    } else {
      products.push_back(detail::compact(stacked({pair.down, pair.up * pair.scaling}, state_.merged[i])));
    }
  }
  if (is_merged) {
    // One site for each pair, alpha equal to the rank: the scaling is 1.
    config.use_rslora = false;
    config.rank_pattern.clear();
    config.alpha_pattern.clear();
    config.rank = products.front().down.size(0);
    config.alpha = static_cast<double>(config.rank);
    for (size_t i = 0; i < products.size(); ++i) {
      const int64_t rank = products[i].down.size(0);
      if (rank == config.rank) continue;
      const std::string pattern = "^" + detail::escape_regex(layout.pairs[i].name);
      config.rank_pattern[pattern] = rank;
      config.alpha_pattern[pattern] = static_cast<double>(rank);
    }
  }
  auto adapter = create_adapter(config, setup_.target, static_cast<uint64_t>(setup_.train.seed));
  const c10::NoGradGuard no_grad;
  const auto pairs = detail::pairs_of(*adapter);
  for (size_t i = 0; i < pairs.size(); ++i) {
    at::Tensor(pairs[i].down).copy_(products[i].down);
    at::Tensor(pairs[i].up).copy_(products[i].up);
  }
  size_t next = 0;
  for (const TrainableTensor& entry : adapter->trainable()) {
    if (entry.group != ParameterGroup::kAdapter) at::Tensor(entry.tensor).copy_(state_.others[next++].tensor);
  }
  return adapter;
}

}  // namespace msplora
