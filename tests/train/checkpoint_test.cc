#include "msplora/train/checkpoint.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "msplora/core/error.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

TrainingCheckpoint example(int64_t step) {
  TrainingCheckpoint checkpoint;
  checkpoint.state.step = step;
  checkpoint.state.epoch = 2;
  checkpoint.state.batch = 7;
  checkpoint.state.window.loss = 0.1 + 0.2;  // has no short decimal form
  checkpoint.state.train_seconds = 1.0 / 3.0;
  checkpoint.state.best_evaluation =
      Evaluation{{{"matthews", std::nan("")}, {"accuracy", 2.0 / 3.0}}, 5, 50, 0.5};
  checkpoint.state.best_step = 3;
  checkpoint.trainable = {{"a", at::arange(6, at::kFloat).reshape({2, 3})}};
  checkpoint.optimizer = {{"a.exp_avg", at::ones({2, 3})}, {"a.step", at::full({1}, step, at::kLong)}};
  checkpoint.adapter_state = {{"stage", 2}};
  checkpoint.recipe = {{"train", {{"lr", 0.1}}}};
  checkpoint.data_fingerprint = std::numeric_limits<uint64_t>::max() - 1;
  return checkpoint;
}

TEST(Checkpoint, ReadsWhatItWrote) {
  TemporaryDirectory directory;
  CheckpointStore store(directory.path());
  store.save(example(12));
  const TrainingCheckpoint read = store.load(12);
  EXPECT_EQ(read.state.step, 12);
  EXPECT_EQ(read.state.batch, 7);
  EXPECT_EQ(read.state.window.loss, 0.1 + 0.2);
  EXPECT_EQ(read.state.train_seconds, 1.0 / 3.0);
  ASSERT_TRUE(read.state.best_evaluation);
  EXPECT_EQ(read.state.best_evaluation->metrics[0].first, "matthews");
  EXPECT_TRUE(std::isnan(read.state.best_evaluation->metrics[0].second));
  EXPECT_EQ(read.state.best_evaluation->metrics[1].second, 2.0 / 3.0);
  EXPECT_FALSE(read.state.last_evaluation);
  ASSERT_EQ(read.trainable.size(), 1u);
  EXPECT_TRUE(at::equal(read.trainable[0].tensor, example(12).trainable[0].tensor));
  EXPECT_EQ(read.optimizer.size(), 2u);
  EXPECT_EQ(read.adapter_state, example(12).adapter_state);
  EXPECT_EQ(read.recipe, example(12).recipe);
  EXPECT_EQ(read.data_fingerprint, example(12).data_fingerprint);
}

TEST(Checkpoint, TheFirstLossIsKeptAndMayBeAbsent) {
  RunState state;
  EXPECT_FALSE(run_state_from_json(run_state_to_json(state), "here").first_loss);
  state.first_loss = 0.1 + 0.2;
  nlohmann::json json = run_state_to_json(state);
  EXPECT_EQ(run_state_from_json(json, "here").first_loss, 0.1 + 0.2);
  json.erase("first_loss");  // as earlier builds wrote it
  EXPECT_FALSE(run_state_from_json(json, "here").first_loss);
}

TEST(Checkpoint, KeepsTheNewestAndTheBest) {
  TemporaryDirectory directory;
  CheckpointStore store(directory.path());
  for (const int64_t step : {2, 4, 6, 8, 10}) store.save(example(step));
  store.prune(2, 4);
  EXPECT_THAT(store.steps(), testing::ElementsAre(4, 8, 10));
  store.prune(1, -1);
  EXPECT_THAT(store.steps(), testing::ElementsAre(10));
}

TEST(Checkpoint, LeavesOutDamagedOnesAndLeftovers) {
  TemporaryDirectory directory;
  CheckpointStore store(directory.path());
  for (const int64_t step : {1, 2, 3, 4}) store.save(example(step));
  fs::resize_file(store.path(2) / "optimizer.safetensors", 10);
  fs::remove(store.path(3) / "trainable.safetensors");
  std::ofstream(store.path(4) / "state.json") << "{\"format\": 1, ";
  fs::create_directories(directory.path() / ".checkpoint-9.new");
  fs::create_directories(directory.path() / "checkpoint-x");
  EXPECT_THAT(store.steps(), testing::ElementsAre(1));
  store.remove_leftovers();
  EXPECT_FALSE(fs::exists(directory.path() / ".checkpoint-9.new"));
  EXPECT_THROW(store.load(4), Error);
  EXPECT_THROW(store.load(77), Error);
}

TEST(Checkpoint, AFailedWriteLeavesTheOldOne) {
  TemporaryDirectory directory;
  CheckpointStore store(directory.path());
  store.save(example(1));
  TrainingCheckpoint broken = example(2);
  broken.optimizer.push_back(broken.optimizer.front());  // a name given twice cannot be written
  EXPECT_THROW(store.save(broken), Error);
  EXPECT_THAT(store.steps(), testing::ElementsAre(1));
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace msplora
