#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "federated/check_options.h"
#include "federated/client.h"
#include "federated/server.h"
#include "federated/server_files.h"
#include "msplora/adapters/fingerprint.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

uint64_t fingerprint_of(const std::vector<ClientData>& clients) {
  uint64_t hash = mix_seed(2, clients.size());
  for (const ClientData& client : clients) {
    for (const auto* examples : {&client.train, &client.held_out})
      hash = mix_seed(hash, fingerprint_of(all_of(*examples)));
  }
  return hash;
}

/// Calls the clients themselves.
class InProcess : public Channel {
 public:
  InProcess(Model& model, const FederationSetup& setup, const detail::Server& server) {
    for (int64_t k = 0; k < static_cast<int64_t>(setup.clients.size()); ++k) {
      clients_.emplace_back(detail::Client::Place{model, setup, server.traits(), server.layout_of(k),
                                                  server.global_layout(), server.state().merged},
                            k);
    }
  }

  Answer exchange(int64_t client, const Message& message) override {
    return clients_.at(static_cast<size_t>(client)).answer(message);
  }

 private:
  std::vector<detail::Client> clients_;
};

}  // namespace

Federation::Federation(FederationSetup setup, Model& model) : setup_(std::move(setup)), model_(model) {
  check_setup();
  const int64_t tokens = setup_.eval_batch_tokens;
  if (!setup_.validation.empty()) validation_.emplace(*setup_.task, model_, setup_.validation, tokens);
  for (const ClientData& client : setup_.clients) {
    if (!client.held_out.empty())
      held_out_.emplace_back(*setup_.task, model_, all_of(client.held_out), tokens);
  }
  data_fingerprint_ = fingerprint_of(setup_.clients);
  server_ = std::make_unique<detail::Server>(setup_);
  channel_ = std::make_unique<InProcess>(model_, setup_, *server_);
  if (setup_.channel) channel_ = setup_.channel(std::move(channel_));
  if (setup_.resume) resume();
  if (setup_.directory.empty()) return;
  detail::keep_rounds(setup_.directory, state().round);
  if (state().round == 0) detail::prune_server_states(setup_.directory, 0);
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

void Federation::resume() {
  if (setup_.directory.empty()) {
    throw Error(ErrorCode::kUsage, "federated training", "there is no directory to resume from");
  }
  auto stored = detail::load_newest_server_state(setup_.directory, state());
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
    errors.add(where, "the clients' data has changed since, or was read by another version of msplora",
               "resume with the same data and version, or start anew in another directory");
  }
  if (stored->identity.base_fingerprint != run_fingerprint(setup_.target)) {
    errors.add(where, "the base model has changed since");
  }
  errors.throw_if_any(ErrorCode::kConfig, where + ": made with other options, data or base");
  server_->state() = std::move(stored->state);
}

const ServerState& Federation::state() const {
  return server_->state();
}

std::unique_ptr<Adapter> Federation::global_adapter() const {
  return server_->global_adapter();
}

}  // namespace msplora
