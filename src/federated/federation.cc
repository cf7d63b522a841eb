#include "msplora/federated/federation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "federated/server.h"
#include "federated/server_files.h"
#include "msplora/adapters/fingerprint.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/random.h"
#include "msplora/core/stopwatch.h"

namespace msplora {
namespace {}  // namespace

std::vector<ClientData> divide(const std::vector<TokenizedExample>& examples, const Partition& partition,
                               double held_out, uint64_t seed) {
  std::vector<ClientData> clients;
  for (size_t k = 0; k < partition.size(); ++k) {
    std::vector<uint32_t> order = partition[k];
    RandomStream(mix_seed(seed, k), "federated held out").shuffle(order);
    size_t aside = 0;
    if (held_out > 0.0 && order.size() > 1) {
      const auto wanted = std::llround(held_out * static_cast<double>(order.size()));
      aside = std::clamp<size_t>(static_cast<size_t>(wanted), 1, order.size() - 1);
    }
    const auto middle = order.begin() + static_cast<std::ptrdiff_t>(aside);
    std::sort(order.begin(), middle);
    std::sort(middle, order.end());
    ClientData& client = clients.emplace_back();
    for (auto it = order.begin(); it != middle; ++it) client.held_out.push_back(examples.at(*it));
    for (auto it = middle; it != order.end(); ++it) {
      client.train.push_back(examples.at(*it));
      client.rows.push_back(*it);
    }
  }
  return clients;
}

uint64_t client_seed(uint64_t run_seed, int64_t round, int64_t client) {
  const uint64_t round_seed =
      mix_seed(mix_seed(run_seed, hash_name("federated client")), static_cast<uint64_t>(round));
  // Seeds are options of type int64 that may not be negative.
  return mix_seed(round_seed, static_cast<uint64_t>(client)) >> 1;
}

Federation::~Federation() = default;

/// Forwards an interruption with the words of the federated run.
void Federation::stop_interrupted(const std::string& where) const {
  const bool saved = state().round > 0 && !setup_.directory.empty();
  throw Error(
      ErrorCode::kInterrupted, "federated training",
      fmt::format("stopped in {}; {}", where,
                  saved ? "the rounds before are saved in " + setup_.directory.string() : "nothing is saved"),
      saved ? "continue with --resume" : "");
}

std::optional<Answer> Federation::ask(int64_t client, const Message& message, std::string& problem) {
  const std::string where = fmt::format("round {}", state().round + 1);
  if (interrupt_requested()) stop_interrupted(where);
  try {
    return channel_->exchange(client, message);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInterrupted)
      stop_interrupted(fmt::format("{}, client {}", where, client));
    if (error.code() != ErrorCode::kIo) throw;
    problem = error.what();
    return std::nullopt;
  }
}

struct Federation::Gathered {
  std::vector<ClientUpdate> updates;
  std::vector<double> losses;  // of the updates
  std::vector<int64_t> reached;
  int64_t steps = 0;
};

Federation::Gathered Federation::gather(const std::vector<int64_t>& asked, RoundReport& report) {
  Gathered gathered;
  for (const int64_t client : asked) {
    const Message message = server_->message_to(client);
    ClientTraffic traffic{client, measure(message), {}};
    std::string problem;
    const std::optional<Answer> given = ask(client, message, problem);
    if (given) gathered.reached.push_back(client);
    const Answer answer = given.value_or(Answer());
    if (!answer.message.adapter.empty()) traffic.up = measure(answer.message);
    report.down.add(traffic.down);
    report.up.add(traffic.up);
    report.traffic.push_back(traffic);
    report.train_seconds += answer.report.seconds;
    report.tokens += answer.report.tokens;
    gathered.steps += answer.report.steps;
    if (problem.empty()) problem = answer.report.problem;
    ClientUpdate update;
    if (problem.empty()) update = server_->update_of(client, answer.message, problem);
    if (problem.empty()) {
      report.clients.push_back(client);
      gathered.updates.push_back(std::move(update));
      gathered.losses.push_back(answer.report.loss);
    } else {
      report.rejected.push_back({client, problem});
    }
  }
  return gathered;
}

void Federation::combine(Gathered gathered, RoundReport& report) {
  const Stopwatch watch;
  const FederatedOptions& options = setup_.options;
  report.skipped =
      gathered.updates.empty() || static_cast<int64_t>(gathered.updates.size()) < options.min_clients;
  if (!report.skipped) {
    report.weights = client_weights(gathered.updates, options.weighting);
    for (size_t i = 0; i < gathered.losses.size(); ++i)
      report.train_loss += report.weights[i] * gathered.losses[i];
    const Aggregate aggregate = server_->take(std::move(gathered.updates), report.weights);
    report.layers = aggregate.errors;
    report.aggregation = aggregate.total;
  }
  report.aggregation_seconds = watch.seconds();
}

RoundReport Federation::run_round() {
  const Stopwatch watch;
  ServerState& state = server_->state();
  const FederatedOptions& options = setup_.options;
  RoundReport report;
  report.round = state.round + 1;
  const auto seed = static_cast<uint64_t>(setup_.train.seed);
  Gathered gathered = gather(
      sample_clients(options.clients, options.fraction, options.min_clients, seed, report.round), report);
  // Nothing before this is seen when the round is stopped.
  state.round = report.round;
  for (const int64_t client : gathered.reached) state.last_round[static_cast<size_t>(client)] = report.round;
  state.steps += gathered.steps;
  combine(std::move(gathered), report);

  const bool is_last = report.round >= options.rounds || report.round == options.stop_at;
  if (report.round % options.eval_every == 0 || is_last) evaluate(report);
  state.total_down.add(report.down);
  state.total_up.add(report.up);
  report.total_down = state.total_down;
  report.total_up = state.total_up;
  report.seconds = watch.seconds();
  state.tokens += report.tokens;
  state.train_seconds += report.train_seconds;
  state.seconds += report.seconds;
  save(report);
  if (setup_.on_round) setup_.on_round(report);
  return report;
}

void Federation::run() {
  while (!finished()) {
    if (setup_.options.stop_at > 0 && state().round >= setup_.options.stop_at) return;
    run_round();
  }
  if (state().used_updates == 0) {
    throw Error(ErrorCode::kNumerics, "federated training",
                fmt::format("no client sent a usable update in {} rounds; rounds.jsonl has the reasons",
                            state().round),
                "a smaller train.lr or train.clip_norm may help");
  }
}

void Federation::evaluate(RoundReport& report) {
  if (!validation_ && held_out_.empty()) return;
  const Stopwatch watch;
  const detail::Layout& layout = server_->global_layout();
  const detail::AttachedAdapter attached(layout.config, setup_.target,
                                         static_cast<uint64_t>(setup_.train.seed), server_->global_message(),
                                         layout, state().merged);
  if (validation_) {
    report.global = validation_->run();
    server_->state().last_metrics = report.global->metrics;
  }
  if (!held_out_.empty()) {
    std::vector<double> values;
    size_t next = 0;
    const std::string metric = score_metric();
    for (const ClientData& client : setup_.clients) {
      values.push_back(client.held_out.empty() ? std::nan("") : held_out_[next++].run().value(metric));
    }
    report.client_scores = summarize_scores(metric, std::move(values));
  }
  report.evaluation_seconds = watch.seconds();
}

std::string Federation::score_metric() const {
  const std::string& wanted = setup_.train.best_metric;
  const std::vector<std::string> names = held_out_.front().metric_names();
  const bool known = std::find(names.begin(), names.end(), wanted) != names.end();
  return known || wanted == "loss" ? wanted : names.front();
}

void Federation::save(const RoundReport& report) {
  if (setup_.directory.empty()) return;
  // The line first: a run that is stopped between the two drops it when it resumes.
  detail::append_round(setup_.directory, to_json(report));
  detail::save_server_state(state(), {setup_.recipe, data_fingerprint_, run_fingerprint(setup_.target)},
                            setup_.directory);
  detail::prune_server_states(setup_.directory, setup_.train.keep_checkpoints);
}

}  // namespace msplora
