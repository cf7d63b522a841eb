#include "federated/client.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "federated/adapter_pairs.h"
#include "msplora/train/trainer.h"

namespace msplora::detail {

Answer Client::answer(const Message& message) const {
  const int64_t round = std::stoll(message.header.at("round"));
  const auto run_seed = static_cast<uint64_t>(place_.setup.train.seed);
  // FFA's A is the one that the seed of the run gives; FLoRA's is new for each client and round.
  const uint64_t seed = place_.traits.restarts ? client_seed(run_seed, round, id_) : run_seed;
  AttachedAdapter attached(place_.layout.config, place_.setup.target, seed, message, place_.global,
                           place_.merged);
  try {
    return train(round, attached.adapter());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNumerics) throw;
    Answer failed;
    failed.report.problem = error.what();
    return failed;
  }
}

Answer Client::train(int64_t round, Adapter& adapter) const {
  const FederationSetup& setup = place_.setup;
  const ClientData& data = setup.clients[static_cast<size_t>(id_)];
  TrainOptions options = setup.train;
  const uint64_t seed = client_seed(static_cast<uint64_t>(setup.train.seed), round, id_);
  options.seed = static_cast<int64_t>(seed);
  BatchOptions batches = setup.batches;
  batches.seed = seed;
  Examples examples = all_of(data.train);
  if (setup.where) examples.where = [&setup, &data](size_t i) { return setup.where(data.rows.at(i)); };
  TrainingData training(*setup.task, place_.model, std::move(examples), batches);

  const auto pairs = pairs_of(adapter);
  TrainerSetup trainer;
  trainer.options = options;
  trainer.keeps_checkpoints = false;
  trainer.method = adapter.config().method;
  trainer.adapter = &adapter;
  trainer.trainable = adapter.trainable();
  if (!place_.traits.trains_down) {
    for (const AdapterPair& pair : pairs) {
      at::Tensor(pair.down).requires_grad_(false);
      std::erase_if(trainer.trainable,
                    [&](const TrainableTensor& entry) { return entry.name == pair.down_name; });
    }
  }
  const int64_t steps = count_steps(options, training);
  trainer.schedule_begin = (round - 1) * steps;
  trainer.schedule_steps = setup.options.rounds * steps;
  const TrainingResult trained = Trainer(std::move(trainer), training).run();

  Answer answer;
  answer.report = {"", trained.last_loss, trained.steps, trained.tokens, trained.seconds};
  answer.message.header = {{"round", std::to_string(round)},
                           {"client", std::to_string(id_)},
                           {"examples", std::to_string(data.train.size())}};
  for (const AdapterPair& pair : pairs) {
    if (place_.traits.trains_down) answer.message.adapter.push_back({pair.down_name, pair.down.detach()});
    answer.message.adapter.push_back({pair.up_name, pair.up.detach()});
  }
  answer.message.others = others_of(adapter);
  for (NamedTensor& other : answer.message.others) other.tensor = other.tensor.clone();
  return answer;
}

}  // namespace msplora::detail
