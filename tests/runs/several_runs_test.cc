// Runs that are opened and trained at a time in one process, and the stop of one among them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/runs/federated_run.h"
#include "msplora/runs/pretraining.h"
#include "msplora/runs/run.h"
#include "nn/drawn_tensors.h"
#include "runs/run_fixture.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;

/// Does something when a step is done.
class AtStep : public EventSink {
 public:
  AtStep(int64_t step, std::function<void()> act) : step_(step), act_(std::move(act)) {}
  void on_step(const StepReport& report) override {
    if (report.step == step_) act_();
  }

 private:
  int64_t step_;
  std::function<void()> act_;
};

std::vector<std::unique_ptr<EventSink>> at_step(int64_t step, std::function<void()> act) {
  std::vector<std::unique_ptr<EventSink>> sinks;
  sinks.push_back(std::make_unique<AtStep>(step, std::move(act)));
  return sinks;
}

class SeveralRuns : public RunFixture {
 protected:
  /// Two that differ in everything that has one place in a process.
  Recipe one_of_two(const std::string& name, bool is_second) const {
    Recipe one = recipe();
    one.adapter.method = is_second ? "lora" : "msplora";
    one.adapter.dropout = 0.1;
    one.train.max_steps = 30;
    one.train.threads = is_second ? 1 : 3;
    one.train.matmul_precision = is_second ? "medium" : "exact";
    one.train.seed = is_second ? 7 : 42;
    one.output.dir = path(name);
    return one;
  }
  PretrainRecipe pretraining(const std::string& name) const {
    PretrainRecipe recipe;
    recipe.model.path = path("base");
    recipe.data.train = {path("base/text.txt")};
    recipe.train.max_steps = 6;
    recipe.train.threads = 1;
    recipe.output.dir = path(name);
    recipe.output.tensorboard = false;
    return recipe;
  }

  /// What runs choose is chosen for whoever chooses nothing: not for the tests behind these.
  const testing::ChosenPrecision afterwards_{kernels::Precision::kExact};

  void expect_stopped(const std::function<void()>& work) const {
    try {
      work();
      ADD_FAILURE() << "was not stopped";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInterrupted) << error.what();
    }
  }
  bool has_checkpoint(const std::string& name) const {
    for (const fs::directory_entry& entry : fs::directory_iterator(path(name)))
      if (entry.path().filename().string().starts_with("checkpoint-")) return true;
    return false;
  }
};

TEST_F(SeveralRuns, OneIsStoppedAndTheOtherEndsAsItDoesAlone) {
  for (const bool is_second : {false, true}) {
    msplora::Run alone = open_run(one_of_two(is_second ? "alone-2" : "alone-1", is_second));
    train(alone);
  }
  std::stop_source stop;
  std::atomic<bool> is_stopped{false};
  // Opened here and trained elsewhere, the last one opened says nothing about the first.
  msplora::Run first = open_run(one_of_two("first", false), {.stop = stop.get_token()});
  msplora::Run second = open_run(one_of_two("second", true));
  std::jthread stopped([&] {
    expect_stopped([&] { train(first, at_step(9, [&] { stop.request_stop(); })); });
    is_stopped = true;
  });
  std::jthread other([&] {
    // Both work at a time, and the stop falls into its middle.
    EXPECT_EQ(train(second, at_step(5,
                                    [&] {
                                      while (!is_stopped)
                                        std::this_thread::sleep_for(std::chrono::milliseconds(1));
                                    }))
                  .steps,
              30);
  });
  stopped.join();
  other.join();
  EXPECT_TRUE(has_checkpoint("first"));
  EXPECT_FALSE(fs::exists(path("first/adapter-native")));
  EXPECT_EQ(learned("second"), learned("alone-2"));
  first = msplora::Run();  // lets its directory go

  msplora::Run rest = open_run(one_of_two("first", false), {.resume = true});
  const msplora::Run last = open_run(one_of_two("last", true));
  std::jthread([&] { EXPECT_EQ(train(rest).threads, 3); }).join();
  EXPECT_EQ(learned("first"), learned("alone-1"));
  EXPECT_NE(learned("first"), learned("second"));
}

TEST_F(SeveralRuns, SixAtATimeEndAsTheyDoAlone) {
  std::vector<std::jthread> threads;
  for (const bool is_second : {false, true}) {
    const std::string name = is_second ? "alone-2" : "alone-1";
    msplora::Run alone = open_run(one_of_two(name, is_second));
    train(alone);
  }
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      EXPECT_NO_THROW({
        msplora::Run run = open_run(one_of_two("at-a-time-" + std::to_string(i), i % 2 == 1));
        train(run);
      });
    });
  }
  threads.clear();  // joins them
  for (int i = 0; i < 6; ++i)
    EXPECT_EQ(learned("at-a-time-" + std::to_string(i)), learned(i % 2 == 1 ? "alone-2" : "alone-1")) << i;
}

TEST_F(SeveralRuns, AStopThatCameBeforeEndsOpening) {
  std::stop_source stop;
  stop.request_stop();
  expect_stopped([&] { open_run(one_of_two("run", false), {.stop = stop.get_token()}); });
  expect_stopped([&] { open_run(pretraining("pretraining"), {.stop = stop.get_token()}); });
  EXPECT_FALSE(fs::exists(path("run")));
}

TEST_F(SeveralRuns, PretrainingAndFederatedRunsAreStoppedToo) {
  std::stop_source stop;
  PretrainingRun pretrained = open_run(pretraining("pretraining"), {.stop = stop.get_token()});
  expect_stopped([&] { train(pretrained, at::kFloat, at_step(2, [&] { stop.request_stop(); })); });
  EXPECT_TRUE(has_checkpoint("pretraining"));

  FederateRecipe federated;
  static_cast<Recipe&>(federated) = one_of_two("federated", false);
  federated.adapter.method = "lora";
  federated.train.max_steps = 2;
  federated.federated.aggregator = "fedit";
  federated.federated.clients = 2;
  federated.federated.rounds = 3;
  std::stop_source rounds;
  FederatedRun run = open_run(federated, {.stop = rounds.get_token()});
  expect_stopped([&] {
    run_rounds(run, [&](const RoundReport& report) {
      if (report.round == 2) rounds.request_stop();
    });
  });
  EXPECT_EQ(run.federation->state().round, 2);
}

// Each run has the warnings of its own.
TEST_F(SeveralRuns, WarningsStayWithTheirRun) {
  Recipe warned = one_of_two("warned", false);
  msplora::Run first = open_run(warned, {.resume = true});  // there is nothing to go on with
  msplora::Run second = open_run(one_of_two("quiet", true));
  EXPECT_THAT(first.warnings, Contains(HasSubstr("a new one begins")));
  EXPECT_THAT(train(first).warnings, Contains(HasSubstr("a new one begins")));
  EXPECT_TRUE(train(second).warnings.empty());
}

}  // namespace
}  // namespace msplora
