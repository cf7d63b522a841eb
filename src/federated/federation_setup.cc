#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "federated/check_options.h"
#include "federated/federation_detail.h"
#include "federated/server_files.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

uint64_t fingerprint_of(const std::vector<ClientData>& clients) {
  uint64_t hash = mix_seed(2, clients.size());
  for (const ClientData& client : clients) {
    for (const auto* examples : {&client.train, &client.held_out}) {
      hash = mix_seed(hash, examples->size());
      for (const TokenizedExample& example : *examples) {
        for (const int32_t id : example.ids) hash = mix_seed(hash, static_cast<uint64_t>(id));
        hash = mix_seed(hash, static_cast<uint64_t>(example.label));
        hash = mix_seed(hash, static_cast<uint64_t>(static_cast<int64_t>(example.target * 1e6)));
      }
    }
  }
  return hash;
}

AdapterConfig with_rank(AdapterConfig config, int64_t rank) {
  config.rank = rank;
  return config;
}

}  // namespace

Federation::Federation(FederationSetup setup, Model& model)
    : setup_(std::move(setup)),
      model_(model),
      aggregator_(make_aggregator(setup_.options.aggregator, setup_.options.fair)),
      traits_(aggregator_->traits()) {
  check_setup();
  EvaluatorOptions evaluation;
  evaluation.is_regression = setup_.task.is_regression;
  evaluation.metrics = setup_.task.metrics;
  evaluation.batch_tokens = setup_.task.eval_batch_tokens;
  for (const ValidationSet& set : setup_.validation)
    validation_.emplace_back(model_, *set.examples, evaluation);
  for (const ClientData& client : setup_.clients) {
    if (!client.held_out.empty()) held_out_.emplace_back(model_, client.held_out, evaluation);
  }
  data_fingerprint_ = fingerprint_of(setup_.clients);
  initialize();
  if (setup_.resume) resume();
  if (setup_.directory.empty()) return;
  detail::keep_rounds(setup_.directory, state_.round);
  if (state_.round == 0) detail::prune_server_states(setup_.directory, 0);
}

void Federation::check_setup() const {
  ErrorList errors;
  detail::check_federated_options(setup_.options, setup_.adapter, setup_.train, errors, "federated training");
  check_train_options(setup_.train, errors, "federated training");
  if (static_cast<int64_t>(setup_.clients.size()) != setup_.options.clients) {
    errors.add("federated.clients", fmt::format("{}, but there is data for {} clients",
                                                setup_.options.clients, setup_.clients.size()));
  }
  for (size_t k = 0; k < setup_.clients.size(); ++k) {
    if (setup_.clients[k].train.empty())
      errors.add("federated.clients", fmt::format("client {} has no data", k));
  }
  errors.throw_if_any(ErrorCode::kConfig, "federated training");
}

void Federation::initialize() {
  std::set<int64_t, std::greater<>> ranks(setup_.options.client_ranks.begin(),
                                          setup_.options.client_ranks.end());
  if (ranks.empty()) ranks.insert(setup_.adapter.rank);
  for (const int64_t rank : ranks) {  // the largest first: it is the global one
    auto layout = std::make_unique<Layout>();
    layout->config = with_rank(setup_.adapter, rank);
    const auto adapter =
        create_adapter(layout->config, setup_.target, static_cast<uint64_t>(setup_.train.seed));
    for (const detail::AdapterPair& pair : detail::pairs_of(*adapter)) {
      layout->pairs.push_back({pair.name, pair.down_name, pair.up_name, pair.down.size(0), pair.down.size(1),
                               pair.up.size(0), pair.scaling, pair.sites});
      if (layouts_.empty()) state_.pairs.push_back(detail::copy_of(pair, pair.up.scalar_type()));
    }
    if (layouts_.empty()) {
      for (const NamedTensor& other : detail::others_of(*adapter)) {
        state_.others.push_back({other.name, other.tensor.clone()});
      }
    }
    layouts_.push_back(std::move(layout));
  }
  state_.last_round.assign(setup_.clients.size(), 0);
  if (!traits_.merges) return;
  for (const FactorPair& pair : state_.pairs) {
    state_.merged.push_back({pair.down.slice(0, 0, 0).clone(), pair.up.slice(1, 0, 0).clone()});
  }
}

void Federation::resume() {
  if (setup_.directory.empty()) {
    throw Error(ErrorCode::kUsage, "federated training", "there is no directory to resume from");
  }
  auto stored = detail::load_newest_server_state(setup_.directory, state_);
  if (!stored) return;
  static const std::set<std::string> kFree = {"output.",
                                              "train.threads",
                                              "train.log_every",
                                              "train.keep_checkpoints",
                                              "train.load_best_at_end",
                                              "train.eval_batch_tokens",
                                              "federated.stop_at",
                                              "federated.eval_every"};
  ErrorList errors;
  const std::string where = stored->path.string();
  if (!setup_.recipe.is_null() && !stored->identity.recipe.is_null()) {
    for (const std::string& key : changed_keys(stored->identity.recipe, setup_.recipe, kFree)) {
      errors.add(key, "differs from the run to be resumed");
    }
  }
  if (stored->identity.data_fingerprint != data_fingerprint_) {
    errors.add(where, "the clients' data has changed since");
  }
  if (stored->identity.base_fingerprint != setup_.target.base_fingerprint) {
    errors.add(where, "the base model has changed since");
  }
  errors.throw_if_any(ErrorCode::kConfig, where + ": made with other options, data or base");
  state_ = std::move(stored->state);
}

const Federation::Layout& Federation::layout_of(int64_t client) const {
  if (setup_.options.client_ranks.empty()) return *layouts_.front();
  const int64_t rank = setup_.options.client_ranks[static_cast<size_t>(client)];
  const auto found =
      std::find_if(layouts_.begin(), layouts_.end(), [&](const auto& l) { return l->config.rank == rank; });
  return **found;
}

}  // namespace msplora
