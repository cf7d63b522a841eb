#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/federated/channel.h"
#include "msplora/federated/partition.h"
#include "msplora/federated/report.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/tasks/task.h"
#include "msplora/train/trainer.h"

namespace msplora {

/// The examples of one client.
struct ClientData {
  std::vector<TokenizedExample> train;
  std::vector<TokenizedExample> held_out;  // the global model is scored on these
  std::vector<uint32_t> rows;              // where the examples of `train` stood in the whole
};

/// Gives each client its part of the examples and sets a share of it aside: round(held_out * n) drawn from
/// (seed, client); at least one when held_out is above 0 and the client has two examples, never all.
std::vector<ClientData> divide(const std::vector<TokenizedExample>& examples, const Partition& partition,
                               double held_out, uint64_t seed);

/// The seed of a client's work in a round (from 1): batches, dropout, FLoRA's fresh A.
uint64_t client_seed(uint64_t run_seed, int64_t round, int64_t client);

/// What the server has added to the base for one pair, as factors with the scaling folded in.
struct MergedProduct {
  at::Tensor down, up;  // of rank 0 while there is nothing
};

/// Everything that the server knows after a round: a resumed run continues from it.
struct ServerState {
  int64_t round = 0;                // rounds done
  std::vector<FactorPair> pairs;    // the global factors, in the type they are sent in
  std::vector<NamedTensor> others;  // the global heads and biases

  /// For aggregators that merge: the sum over all rounds, and what each round added, kept until every client
  /// has received it. One product for each pair.
  struct Stack {
    int64_t round = 0;
    std::vector<MergedProduct> products;
  };
  std::vector<MergedProduct> merged;
  std::vector<Stack> stacks;

  std::vector<int64_t> last_round;  // of each client: the last one it was asked in; 0: none
  Traffic total_down, total_up;
  int64_t steps = 0, tokens = 0;  // of local training, all clients together
  int64_t used_updates = 0;
  double train_seconds = 0.0, seconds = 0.0;
  std::vector<std::pair<std::string, double>> last_metrics;  // of the last evaluation of the global model
};

/// What is trained and how.
struct FederationSetup {
  FederatedOptions options;
  AdapterConfig adapter;
  TrainOptions train;  // a client's work in one round; `seed` is that of the whole run
  AdapterTarget target;
  std::vector<ClientData> clients;
  const Task* task = nullptr;             // not owned
  std::vector<NamedExamples> validation;  // for the global model; may be empty
  BatchOptions batches;                   // the seed is set for each client
  int64_t eval_batch_tokens = 4096;
  std::function<std::string(size_t)> where;  // of a row, for messages; may be empty
  std::filesystem::path directory;  // of rounds.jsonl and round-N.safetensors; empty: nothing is written
  bool resume = false;              // continue from the newest round in `directory`, if there is one
  nlohmann::json recipe;            // a resumed run must have the same; may be null
  std::function<void(const RoundReport&)> on_round;
  /// May put another way between server and clients, made from the one to the clients of this process.
  std::function<std::unique_ptr<Channel>(std::unique_ptr<Channel>)> channel;
};

namespace detail {
class Server;
}

/// Federated fine-tuning in one process: a server, clients and the channel between them, round after round.
/// All clients share one frozen base: one after the other, each puts an adapter on the model, fills it with
/// what the server sent, trains with the Trainer, and answers. The optimizer is new in each round. The
/// learning rate of a client in step t of its T steps of round r (from 0) is that of step r T + t in a
/// schedule over rounds * T steps.
///
/// The result depends on the setup alone, and a resumed run equals the uninterrupted one, bit for bit.
class Federation {
 public:
  /// The model must outlive it and carry no adapter. Throws Error{kConfig} listing all contradictions of the
  /// setup, or when the state to resume from was made with other options, data or base.
  Federation(FederationSetup setup, Model& model);
  ~Federation();

  /// One round. A client whose training or update is not finite is left out, with the reason in the report.
  /// Throws Error{kInterrupted} when interrupt_requested(); the rounds before are saved.
  RoundReport run_round();

  /// The rounds that are left, to the end or to federated.stop_at. Throws as run_round() does, and
  /// Error{kNumerics} when the run ends without a single usable update.
  void run();
  bool finished() const { return state().round >= setup_.options.rounds; }

  const FederationSetup& setup() const { return setup_; }
  const ServerState& state() const;

  /// The global model as one adapter, attached: the factors, concatenated with what was merged into the base,
  /// so that it can be saved and merged like any other. Destroy it before the next round.
  std::unique_ptr<Adapter> global_adapter() const;

 private:
  void check_setup() const;
  void resume();
  /// What the clients of a round answered, and what of it can be used.
  struct Gathered;
  Gathered gather(const std::vector<int64_t>& asked, RoundReport& report);
  /// The updates into the global model, unless there are too few.
  void combine(Gathered gathered, RoundReport& report);
  std::optional<Answer> ask(int64_t client, const Message& message, std::string& problem);
  [[noreturn]] void stop_interrupted(const std::string& where) const;
  void evaluate(RoundReport& report);
  std::string score_metric() const;
  void save(const RoundReport& report);

  FederationSetup setup_;
  Model& model_;
  std::optional<Evaluator> validation_;
  std::vector<Evaluator> held_out_;  // of the clients that have any
  std::unique_ptr<detail::Server> server_;
  std::unique_ptr<Channel> channel_;
  uint64_t data_fingerprint_ = 0;
};

}  // namespace msplora
