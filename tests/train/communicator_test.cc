// Two ranks of one run, each a thread with a model of its own, against one process that takes all
// micro-batches.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/train/communicator.h"
#include "train/adapted_run.h"

namespace msplora {
namespace {

/// Where threads meet: what each brings is kept by rank until all have seen it.
class Meeting {
 public:
  explicit Meeting(size_t size) : tensors_(size), texts_(size) {}

  std::vector<at::Tensor> exchange(size_t rank, const at::Tensor& tensor) {
    return all_of(tensors_, rank, tensor.clone());
  }
  std::vector<std::string> exchange(size_t rank, const std::string& text) {
    return all_of(texts_, rank, text);
  }

 private:
  template <class T>
  std::vector<T> all_of(std::vector<T>& places, size_t rank, T value) {
    std::unique_lock lock(mutex_);
    places[rank] = std::move(value);
    wait(lock);
    std::vector<T> all = places;
    wait(lock);  // nobody writes before all have read
    return all;
  }
  void wait(std::unique_lock<std::mutex>& lock) {
    const uint64_t turn = turn_;
    if (++arrived_ == tensors_.size()) {
      arrived_ = 0;
      ++turn_;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return turn_ != turn; });
    }
  }

  std::vector<at::Tensor> tensors_;
  std::vector<std::string> texts_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t arrived_ = 0;
  uint64_t turn_ = 0;
};

class ThreadRank : public Communicator {
 public:
  ThreadRank(Meeting& meeting, int64_t rank, int64_t size) : meeting_(meeting), rank_(rank), size_(size) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  void sum(at::Tensor& flat) override {
    const std::vector<at::Tensor> all = meeting_.exchange(static_cast<size_t>(rank_), flat);
    flat.copy_(all[0]);
    for (size_t k = 1; k < all.size(); ++k) flat.add_(all[k]);
  }
  void broadcast(at::Tensor& flat, int64_t from) override {
    flat.copy_(meeting_.exchange(static_cast<size_t>(rank_), flat).at(static_cast<size_t>(from)));
  }
  std::vector<std::string> gather(const std::string& bytes) override {
    return meeting_.exchange(static_cast<size_t>(rank_), bytes);
  }

 private:
  Meeting& meeting_;
  int64_t rank_, size_;
};

AdapterConfig ranked(const std::string& method) {
  AdapterConfig config;
  config.method = method;
  config.rank = 4;
  config.alpha = 6.0;
  config.dropout = 0.1;
  if (method == "prilora") config.set("prilora.prune_every", 3);
  return config;
}

/// What one rank of `size` ends with: trained tensors and those of the method's state.
struct RankEnd {
  std::vector<at::Tensor> tensors;
  TrainingResult result;
};

RankEnd train_rank(const AdapterConfig& config, int64_t accumulation, Communicator* ranks) {
  AdaptedRun run(config);
  run.options.accumulation = accumulation;
  run.options.epochs = 1;
  run.options.load_best_at_end = false;
  run.ranks = ranks;
  RankEnd end;
  end.result = run.run({});
  for (const TrainableTensor& entry : run.adapter->trainable()) end.tensors.push_back(entry.tensor.detach());
  for (const NamedTensor& entry : run.adapter->state().tensors) end.tensors.push_back(entry.tensor);
  return end;
}

std::vector<RankEnd> train_two(const AdapterConfig& config) {
  Meeting meeting(2);
  std::vector<RankEnd> ends(2);
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadRank place(meeting, rank, 2);
      ends[static_cast<size_t>(rank)] = train_rank(config, 1, &place);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}

/// PRILoRA's norms are observations of the forward passes: without their exchange the ranks would prune
/// apart.
TEST(Ranks, TwoEndWhereOneProcessWithTheirBatchesDoes) {
  for (const char* method : {"lora", "prilora", "xgblora"}) {
    SCOPED_TRACE(method);
    const RankEnd one = train_rank(ranked(method), 2, nullptr);
    const std::vector<RankEnd> two = train_two(ranked(method));
    for (const RankEnd& rank : two) {
      EXPECT_EQ(rank.result.steps, one.result.steps);
      EXPECT_EQ(rank.result.tokens, one.result.tokens);
      EXPECT_NEAR(rank.result.last_loss, one.result.last_loss, 1e-6);
      ASSERT_EQ(rank.tensors.size(), one.tensors.size());
      for (size_t i = 0; i < one.tensors.size(); ++i) {
        EXPECT_TRUE(at::equal(rank.tensors[i], two[0].tensors[i])) << i;
        EXPECT_LT((rank.tensors[i] - one.tensors[i]).abs().max().item<double>(), 1e-5) << i;
      }
    }
  }
}

TEST(Ranks, AllStopWhereOneDoes) {
  AdapterConfig config = ranked("lora");
  Meeting meeting(2);
  std::vector<std::string> problems(2);
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadRank place(meeting, rank, 2);
      AdaptedRun run(config);
      run.ranks = &place;
      // Only one rank has the number that spoils its loss.
      if (rank == 1) at::Tensor(run.adapter->trainable().front().tensor.detach()).fill_(std::nanf(""));
      try {
        run.run({});
      } catch (const Error& error) {
        problems[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(problems[0], ::testing::HasSubstr("another rank"));
  EXPECT_THAT(problems[1], ::testing::HasSubstr("the loss is"));
}

TEST(Ranks, SlotsStandInTheOrderOfTheRanks) {
  Meeting meeting(2);
  std::vector<at::Tensor> slots(2);
  std::vector<std::vector<std::string>> texts(2);
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadRank place(meeting, rank, 2);
      at::Tensor& own = slots[static_cast<size_t>(rank)];
      own = at::arange(6 - 3 * rank, at::kFloat).reshape({2 - rank, 3}) + 10.0 * static_cast<double>(rank);
      join_slots(place, {&own});
      at::Tensor number = at::full({1}, rank, at::kLong);
      place.broadcast(number, 1);
      EXPECT_EQ(number.item<int64_t>(), 1);
      texts[static_cast<size_t>(rank)] = place.gather(std::to_string(rank));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const at::Tensor& joined : slots) {
    ASSERT_EQ(joined.sizes(), (std::vector<int64_t>{3, 3}));
    EXPECT_EQ(joined[1][2].item<float>(), 5.0F);
    EXPECT_EQ(joined[2][0].item<float>(), 10.0F);
  }
  EXPECT_EQ(texts[0], (std::vector<std::string>{"0", "1"}));
}

}  // namespace
}  // namespace msplora
