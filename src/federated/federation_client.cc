// What passes between the server and one client, and what the client does.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "federated/federation_detail.h"
#include "msplora/core/random.h"
#include "msplora/train/trainer.h"

namespace msplora {

Federation::AttachedAdapter::AttachedAdapter(std::unique_ptr<Adapter> adapter, const Layout& layout,
                                             const std::vector<MergedProduct>& merged)
    : adapter_(std::move(adapter)) {
  std::map<Linear*, std::shared_ptr<SiteUpdate>> extended;
  for (size_t i = 0; i < merged.size(); ++i) {
    if (merged[i].down.size(0) == 0) continue;
    for (const size_t site : layout.pairs[i].sites) {
      Linear* linear = adapter_->sites()[site].linear;
      auto& update = extended[linear];
      if (update == nullptr) update = std::make_shared<SiteUpdate>(*linear->update);
      update->low_rank.push_back({merged[i].down, merged[i].up, 1.0, 0.0, 0});
    }
  }
  for (auto& [linear, update] : extended) {
    replaced_.emplace_back(linear, linear->update);
    linear->update = std::move(update);
  }
}

Federation::AttachedAdapter::~AttachedAdapter() {
  // The adapter takes off only what it put on itself.
  for (auto& [linear, update] : replaced_) linear->update = std::move(update);
}

std::unique_ptr<Federation::AttachedAdapter> Federation::attach(const AdapterConfig& config, uint64_t seed,
                                                                const Message& message) const {
  auto adapter = create_adapter(config, setup_.target, seed);
  std::map<std::string, at::Tensor> values;
  for (const auto* tensors : {&message.adapter, &message.others}) {
    for (const NamedTensor& entry : *tensors) values[entry.name] = entry.tensor;
  }
  const c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter->trainable()) {
    const auto found = values.find(entry.name);
    if (found != values.end()) at::Tensor(entry.tensor).copy_(found->second);
  }
  return std::make_unique<AttachedAdapter>(std::move(adapter), *layouts_.front(), state_.merged);
}

Message Federation::global_message() const {
  Message message;
  for (size_t i = 0; i < state_.pairs.size(); ++i) {
    const Layout::Pair& names = layouts_.front()->pairs[i];
    message.adapter.push_back({names.down_name, state_.pairs[i].down});
    message.adapter.push_back({names.up_name, state_.pairs[i].up});
  }
  message.others = state_.others;
  return message;
}

Message Federation::message_to(int64_t client) const {
  Message message;
  message.header = {{"round", std::to_string(state_.round + 1)}, {"client", std::to_string(client)}};
  message.others = state_.others;
  const Layout& layout = layout_of(client);
  const bool is_first = state_.last_round[static_cast<size_t>(client)] == 0;
  if (!traits_.trains_down && is_first) {
    message.adapter.push_back({"seed", at::full({1}, setup_.train.seed, at::kLong)});
  }
  if (!traits_.restarts) {
    for (size_t i = 0; i < state_.pairs.size(); ++i) {
      const Layout::Pair& pair = layout.pairs[i];
      const FactorPair part = truncated(state_.pairs[i], pair.rank, pair.scaling);
      if (traits_.trains_down) message.adapter.push_back({pair.down_name, part.down});
      message.adapter.push_back({pair.up_name, part.up});
    }
  }
  if (traits_.merges) add_missed_stacks(client, message);
  return message;
}

void Federation::add_missed_stacks(int64_t client, Message& message) const {
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
      message.adapter.push_back({pair.name + ".merged", detail::dense(state_.merged[i])});
    } else {
      message.adapter.push_back({pair.name + ".stack.down", at::cat(downs, 0)});
      message.adapter.push_back({pair.name + ".stack.up", at::cat(ups, 1)});
    }
  }
}

Federation::LocalResult Federation::train(int64_t client, int64_t round, const Message& message) {
  const auto run_seed = static_cast<uint64_t>(setup_.train.seed);
  // FFA's A is the one that the seed of the run gives; FLoRA's is new for each client and round.
  const uint64_t seed = traits_.restarts ? client_seed(run_seed, round, client) : run_seed;
  const auto attached = attach(layout_of(client).config, seed, message);
  try {
    return train_attached(client, round, attached->adapter());
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInterrupted) {
      throw Error(ErrorCode::kInterrupted, "federated training",
                  fmt::format("stopped in round {}, client {}; {}", round, client,
                              state_.round == 0 || setup_.directory.empty()
                                  ? "nothing is saved"
                                  : "the rounds before are saved in " + setup_.directory.string()),
                  state_.round == 0 || setup_.directory.empty() ? "" : "continue with --resume");
    }
    if (error.code() != ErrorCode::kNumerics) throw;
    LocalResult failed;
    failed.problem = error.what();
    return failed;
  }
}

Federation::LocalResult Federation::train_attached(int64_t client, int64_t round, Adapter& adapter) {
  const ClientData& data = setup_.clients[static_cast<size_t>(client)];
  TrainOptions options = setup_.train;
  const uint64_t seed = client_seed(static_cast<uint64_t>(setup_.train.seed), round, client);
  options.seed = static_cast<int64_t>(seed);
  TextTaskOptions task_options = setup_.task;
  task_options.batches.seed = seed;
  if (setup_.task.where) {
    task_options.where = [this, &data](uint32_t example) { return setup_.task.where(data.rows.at(example)); };
  }
  TextTask task(model_, data.train, {}, std::move(task_options));

  const auto pairs = detail::pairs_of(adapter);
  TrainerSetup trainer;
  trainer.options = options;
  trainer.keeps_checkpoints = false;
  trainer.method = adapter.config().method;
  trainer.adapter = &adapter;
  trainer.trainable = adapter.trainable();
  if (!traits_.trains_down) {
    for (const detail::AdapterPair& pair : pairs) {
      at::Tensor(pair.down).requires_grad_(false);
      std::erase_if(trainer.trainable,
                    [&](const TrainableTensor& entry) { return entry.name == pair.down_name; });
    }
  }
  const int64_t steps = count_steps(options, task);
  trainer.schedule_begin = (round - 1) * steps;
  trainer.schedule_steps = setup_.options.rounds * steps;
  const TrainingResult trained = Trainer(std::move(trainer), task).run();

  LocalResult result;
  result.loss = trained.last_loss;
  result.steps = trained.steps;
  result.tokens = trained.tokens;
  result.seconds = trained.seconds;
  result.update.client = client;
  result.update.examples = static_cast<int64_t>(data.train.size());
  result.answer.header = {{"round", std::to_string(round)},
                          {"client", std::to_string(client)},
                          {"examples", std::to_string(data.train.size())}};
  for (const detail::AdapterPair& pair : pairs) {
    result.update.pairs.push_back(detail::copy_of(pair, at::kDouble));
    if (traits_.trains_down) result.answer.adapter.push_back({pair.down_name, pair.down.detach()});
    result.answer.adapter.push_back({pair.up_name, pair.up.detach()});
  }
  result.answer.others = detail::others_of(adapter);
  for (NamedTensor& other : result.answer.others) other.tensor = other.tensor.clone();
  for (const NamedTensor& other : result.answer.others) {
    result.update.others.push_back({other.name, other.tensor.to(at::kDouble)});
  }
  const std::string bad = not_finite_tensor(result.update);
  if (!bad.empty()) result.problem = fmt::format("{} is not finite after local training", bad);
  return result;
}

}  // namespace msplora
