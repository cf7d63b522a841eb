#include "federated/server.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adapters/regex.h"
#include "federated/adapter_pairs.h"

namespace msplora::detail {
namespace {

AdapterConfig with_rank(AdapterConfig config, int64_t rank) {
  config.rank = rank;
  return config;
}

at::Tensor dense(const MergedProduct& product) {
  return at::mm(product.up.to(at::kDouble), product.down.to(at::kDouble)).to(product.up.scalar_type());
}

/// up * down with at most min(m, n) rows: a product of a larger rank becomes a dense matrix beside an
/// identity.
MergedProduct compact(const MergedProduct& product) {
  const int64_t in = product.down.size(1), out = product.up.size(0);
  if (product.down.size(0) <= std::min(in, out)) return product;
  if (in <= out) return {at::eye(in, product.down.options()), dense(product)};
  return {dense(product), at::eye(out, product.up.options())};
}

MergedProduct stacked(const MergedProduct& a, const MergedProduct& b) {
  return {at::cat({a.down, b.down}, 0), at::cat({a.up, b.up}, 1)};
}

/// The tensor of an answer, or an undefined one with the reason in `problem`.
at::Tensor taken(const std::vector<NamedTensor>& tensors, const std::string& name,
                 const std::vector<int64_t>& shape, std::string& problem) {
  for (const NamedTensor& entry : tensors) {
    if (entry.name != name) continue;
    if (entry.tensor.sizes() == shape) return entry.tensor.to(at::kDouble);
    problem = fmt::format("{} is of shape [{}], expected [{}]", name, fmt::join(entry.tensor.sizes(), ", "),
                          fmt::join(shape, ", "));
    return {};
  }
  problem = fmt::format("{} is missing in the answer", name);
  return {};
}

}  // namespace

Server::Server(const FederationSetup& setup)
    : setup_(setup), kind_(aggregator_kind(setup.options.aggregator)) {
  std::set<int64_t, std::greater<>> ranks(setup_.options.client_ranks.begin(),
                                          setup_.options.client_ranks.end());
  if (ranks.empty()) ranks.insert(setup_.adapter.rank);
  for (const int64_t rank : ranks) {  // the largest first: it is the global one
    auto layout = std::make_unique<Layout>();
    layout->config = with_rank(setup_.adapter, rank);
    const auto adapter =
        create_adapter(layout->config, setup_.target, static_cast<uint64_t>(setup_.train.seed));
    for (const AdapterPair& pair : pairs_of(*adapter)) {
      if (!traits().trains_down && pair.down.count_nonzero().item<int64_t>() == 0) {
        throw Error(
            ErrorCode::kConfig, "federated.aggregator",
            fmt::format("`{}` leaves A as it is drawn, but that of {} begins at 0", kind_.name, pair.name),
            "take another aggregator, or leave the table of words out");
      }
      layout->pairs.push_back({pair.name, pair.down_name, pair.up_name, pair.down.size(0), pair.down.size(1),
                               pair.up.size(0), pair.scaling, pair.sites});
      if (layouts_.empty()) state_.pairs.push_back(copy_of(pair, pair.up.scalar_type()));
    }
    if (layouts_.empty()) {
      for (const NamedTensor& other : others_of(*adapter)) {
        state_.others.push_back({other.name, other.tensor.clone()});
      }
    }
    layouts_.push_back(std::move(layout));
  }
  state_.last_round.assign(setup_.clients.size(), 0);
  if (!traits().merges) return;
  for (const FactorPair& pair : state_.pairs) {
    state_.merged.push_back({pair.down.slice(0, 0, 0).clone(), pair.up.slice(1, 0, 0).clone()});
  }
}

const Layout& Server::layout_of(int64_t client) const {
  if (setup_.options.client_ranks.empty()) return *layouts_.front();
  const int64_t rank = setup_.options.client_ranks[static_cast<size_t>(client)];
  const auto found =
      std::find_if(layouts_.begin(), layouts_.end(), [&](const auto& l) { return l->config.rank == rank; });
  return **found;
}

Message Server::global_message() const {
  Message message;
  for (size_t i = 0; i < state_.pairs.size(); ++i) {
    const Layout::Pair& names = layouts_.front()->pairs[i];
    message.adapter.push_back({names.down_name, state_.pairs[i].down});
    message.adapter.push_back({names.up_name, state_.pairs[i].up});
  }
  message.others = state_.others;
  return message;
}

Message Server::message_to(int64_t client) const {
  Message message;
  message.header = {{"round", std::to_string(state_.round + 1)}, {"client", std::to_string(client)}};
  message.others = state_.others;
  const Layout& layout = layout_of(client);
  const bool is_first = state_.last_round[static_cast<size_t>(client)] == 0;
  if (!traits().trains_down && is_first) {
    message.adapter.push_back({"seed", at::full({1}, setup_.train.seed, at::kLong)});
  }
  if (!traits().restarts) {
    for (size_t i = 0; i < state_.pairs.size(); ++i) {
      const Layout::Pair& pair = layout.pairs[i];
      const FactorPair part = truncated(state_.pairs[i], pair.rank, pair.scaling);
      if (traits().trains_down) message.adapter.push_back({pair.down_name, part.down});
      message.adapter.push_back({pair.up_name, part.up});
    }
  }
  if (traits().merges) add_missed_stacks(client, message);
  return message;
}

void Server::add_missed_stacks(int64_t client, Message& message) const {
  // A client that was asked in round t holds what the rounds before t added.
  const int64_t last = state_.last_round[static_cast<size_t>(client)];
  for (size_t i = 0; i < state_.pairs.size(); ++i) {
    const Layout::Pair& pair = layouts_.front()->pairs[i];
    std::vector<at::Tensor> downs, ups;
    int64_t rank = 0;
    for (const ServerState::Stack& stack : state_.stacks) {
      if (stack.round < last || stack.products[i].down.size(0) == 0) continue;
      downs.push_back(stack.products[i].down);
      ups.push_back(stack.products[i].up);
      rank += downs.back().size(0);
    }
    if (rank == 0) continue;
    if (rank * (pair.in_features + pair.out_features) > pair.in_features * pair.out_features) {
      message.adapter.push_back({pair.name + ".merged", dense(state_.merged[i])});
    } else {
      message.adapter.push_back({pair.name + ".stack.down", at::cat(downs, 0)});
      message.adapter.push_back({pair.name + ".stack.up", at::cat(ups, 1)});
    }
  }
}

ClientUpdate Server::update_of(int64_t client, const Message& answer, std::string& problem) const {
  ClientUpdate update;
  update.client = client;
  const auto examples = answer.header.find("examples");
  if (examples != answer.header.end()) update.examples = std::atoll(examples->second.c_str());
  if (update.examples <= 0) problem = "the answer does not say from how many examples it is";
  const Layout& layout = layout_of(client);
  for (size_t i = 0; i < layout.pairs.size() && problem.empty(); ++i) {
    const Layout::Pair& pair = layout.pairs[i];
    const at::Tensor down =
        traits().trains_down ? taken(answer.adapter, pair.down_name, {pair.rank, pair.in_features}, problem)
                             : state_.pairs[i].down.to(at::kDouble);
    if (!problem.empty()) break;
    const at::Tensor up = taken(answer.adapter, pair.up_name, {pair.out_features, pair.rank}, problem);
    update.pairs.push_back({pair.name, down, up, pair.scaling});
  }
  for (const NamedTensor& other : state_.others) {
    if (!problem.empty()) break;
    update.others.push_back(
        {other.name, taken(answer.others, other.name, other.tensor.sizes().vec(), problem)});
  }
  if (!problem.empty()) return update;
  const std::string bad = not_finite_tensor(update);
  if (!bad.empty()) problem = fmt::format("{} is not finite after local training", bad);
  return update;
}

Aggregate Server::take(std::vector<ClientUpdate> updates, const std::vector<double>& weights) {
  std::vector<FactorPair> global;
  for (const FactorPair& pair : state_.pairs) global.push_back(converted(pair, at::kDouble));
  state_.used_updates += static_cast<int64_t>(updates.size());
  Aggregate result = aggregate(kind_, setup_.options.own(), global, std::move(updates), weights);
  for (size_t i = 0; i < state_.pairs.size(); ++i) {
    state_.pairs[i] = converted(result.pairs[i], state_.pairs[i].up.scalar_type());
  }
  for (size_t i = 0; i < state_.others.size(); ++i) {
    state_.others[i].tensor = result.others[i].tensor.to(state_.others[i].tensor.scalar_type());
  }
  if (traits().merges) merge(result.merged);
  return result;
}

void Server::merge(const std::vector<FactorPair>& products) {
  ServerState::Stack stack{state_.round, {}};
  for (size_t i = 0; i < products.size(); ++i) {
    const at::ScalarType dtype = state_.pairs[i].up.scalar_type();
    stack.products.push_back(
        {products[i].down.to(dtype).contiguous(), products[i].up.to(dtype).contiguous()});
    state_.merged[i] = compact(stacked(state_.merged[i], stack.products.back()));
  }
  state_.stacks.push_back(std::move(stack));
  const int64_t oldest = *std::min_element(state_.last_round.begin(), state_.last_round.end());
  std::erase_if(state_.stacks, [&](const ServerState::Stack& old) { return old.round < oldest; });
}

std::unique_ptr<Adapter> Server::global_adapter() const {
  const Layout& layout = *layouts_.front();
  AdapterConfig config = layout.config;
  const bool is_merged = std::any_of(state_.merged.begin(), state_.merged.end(),
                                     [](const MergedProduct& product) { return product.down.size(0) > 0; });
  std::vector<MergedProduct> products;
  for (size_t i = 0; i < state_.pairs.size(); ++i) {
    const FactorPair& pair = state_.pairs[i];
    if (!is_merged) {
      products.push_back({pair.down, pair.up});
    } else if (traits().restarts) {  // B is zero
      products.push_back(compact(state_.merged[i]));
    } else {
      products.push_back(compact(stacked({pair.down, pair.up * pair.scaling}, state_.merged[i])));
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
      const std::string pattern = "^" + escape_regex(layout.pairs[i].name);
      config.rank_pattern[pattern] = rank;
      config.alpha_pattern[pattern] = static_cast<double>(rank);
    }
  }
  auto adapter = create_adapter(config, setup_.target, static_cast<uint64_t>(setup_.train.seed));
  const c10::NoGradGuard no_grad;
  const auto pairs = pairs_of(*adapter);
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

}  // namespace msplora::detail
