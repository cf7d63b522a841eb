#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "msplora/core/file.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

constexpr char kChildDirectory[] = "MSPLORA_TEST_CHILD_DIRECTORY";

/// metrics.jsonl without what the clock decides.
std::vector<std::string> metric_lines(const fs::path& directory) {
  std::istringstream lines(read_file(directory / "metrics.jsonl"));
  std::vector<std::string> kept;
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::json::parse(line);
    for (const char* key : {"time", "seconds", "tokens_per_second", "evaluation_seconds"}) json.erase(key);
    kept.push_back(json.dump());
  }
  return kept;
}

void expect_same_run(const TinyRun& a, const fs::path& a_directory, const TinyRun& b,
                     const fs::path& b_directory) {
  EXPECT_TRUE(all_equal(a.values(), b.values()));
  EXPECT_EQ(metric_lines(a_directory), metric_lines(b_directory));
  const CheckpointStore a_store(a_directory);
  const CheckpointStore b_store(b_directory);
  ASSERT_EQ(a_store.steps(), b_store.steps());
  const auto a_last = a_store.load(a_store.steps().back());
  const auto b_last = b_store.load(b_store.steps().back());
  ASSERT_EQ(a_last.optimizer.size(), b_last.optimizer.size());
  for (size_t i = 0; i < a_last.optimizer.size(); ++i) {
    EXPECT_TRUE(at::equal(a_last.optimizer[i].tensor, b_last.optimizer[i].tensor))
        << a_last.optimizer[i].name;
  }
}

/// The run of these tests: dropout everywhere, accumulation, warm-up, evaluation out of step with logging.
void configure(TinyRun& run) {
  run.options.epochs = 3;
  run.options.batch_size = 4;
  run.options.accumulation = 2;
  run.options.warmup_steps = 3;
  run.options.schedule = "cosine";
  run.options.eval_every = 5;
  run.options.log_every = 3;
  run.options.save_every = 1;
  run.options.keep_checkpoints = 2;
}

TEST(Resume, EqualsTheUninterruptedRunFromEveryStep) {
  TemporaryDirectory whole_directory;
  TinyRun whole(0.2);
  configure(whole);
  const TrainingResult whole_result = whole.run(whole_directory.path());
  ASSERT_EQ(whole_result.steps, 21);
  const CheckpointStore whole_store(whole_directory.path());
  const auto first_loss = whole_store.load(whole_store.steps().back()).state.first_loss;
  for (int64_t pause = 1; pause < whole_result.steps; pause += 3) {
    SCOPED_TRACE(pause);
    TemporaryDirectory directory;
    TinyRun first(0.2);
    configure(first);
    first.options.stop_at = pause;
    EXPECT_TRUE(first.run(directory.path()).paused);
    std::ofstream(directory.path() / "metrics.jsonl", std::ios::app)
        << "{\"kind\": \"train\", \"step\": " << pause + 1
        << "}\n{\"kind\": \"tra";  // a killed run had gone further
    TinyRun second(0.2);
    configure(second);
    const TrainingResult result = second.run(directory.path(), /*resume=*/true);
    expect_same_run(second, directory.path(), whole, whole_directory.path());
    EXPECT_EQ(result.best_step, whole_result.best_step);
    EXPECT_EQ(result.last_loss, whole_result.last_loss);
    EXPECT_EQ(result.tokens, whole_result.tokens);
    // By it an explosion is recognised: that of the first step, also where a run goes on.
    const CheckpointStore store(directory.path());
    EXPECT_EQ(store.load(store.steps().back()).state.first_loss, first_loss);
  }
}

TEST(Resume, AFinishedRunStaysAsItIs) {
  TemporaryDirectory directory;
  TinyRun first(0.2);
  configure(first);
  first.run(directory.path());
  const auto lines = metric_lines(directory.path());
  TinyRun second(0.2);
  configure(second);
  EXPECT_EQ(second.run(directory.path(), true).steps, 21);
  EXPECT_TRUE(all_equal(first.values(), second.values()));
  EXPECT_EQ(metric_lines(directory.path()), lines);
}

TEST(Resume, WithoutACheckpointStartsAtTheBeginning) {
  TemporaryDirectory directory;
  TinyRun run;
  run.options.max_steps = 2;
  EXPECT_EQ(run.run(directory.path(), /*resume=*/true).steps, 2);
}

/// What a run is resumed with that it was not begun with, and what the refusal names.
struct Change {
  const char* names;
  void (*apply)(TinyRun&);
};

class ResumeRefuses : public testing::TestWithParam<Change> {};

TEST_P(ResumeRefuses, AnotherRun) {
  TemporaryDirectory directory;
  TinyRun first;
  first.options.stop_at = 2;
  first.run(directory.path());
  TinyRun other;
  GetParam().apply(other);
  try {
    other.run(directory.path(), true);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(GetParam().names));
    EXPECT_THAT(error.what(), testing::Not(testing::HasSubstr("train.stop_at:")));
  }
}

INSTANTIATE_TEST_SUITE_P(Changes, ResumeRefuses,
                         testing::Values(Change{"train.lr", [](TinyRun& run) { run.options.lr = 1.0; }},
                                         Change{"train.epochs", [](TinyRun& run) { run.options.epochs = 5; }},
                                         Change{"the training data has changed",
                                                [](TinyRun& run) { run.train[3].ids[0] = 11; }}),
                         [](const auto& info) {
                           std::string name = info.param.names;
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

TEST(Resume, AnUnreadableCheckpointGivesWayToTheOneBefore) {
  TemporaryDirectory whole_directory;
  TinyRun whole(0.2);
  configure(whole);
  whole.run(whole_directory.path());
  TemporaryDirectory directory;
  TinyRun first(0.2);
  configure(first);
  first.options.stop_at = 8;
  first.run(directory.path());
  const CheckpointStore store(directory.path());
  ASSERT_EQ(store.steps().back(), 8);
  const fs::path newest = store.path(8) / "trainable.safetensors";
  const std::string zeros(fs::file_size(newest), '\0');
  std::ofstream(newest, std::ios::binary) << zeros;
  TinyRun second(0.2);
  configure(second);
  second.run(directory.path(), /*resume=*/true);
  expect_same_run(second, directory.path(), whole, whole_directory.path());
}

TEST(Resume, AFreshRunRemovesTheFilesOfTheOneBefore) {
  TemporaryDirectory directory;
  TinyRun first;
  first.run(directory.path());
  TinyRun second;
  second.options.max_steps = 3;
  second.run(directory.path());
  EXPECT_THAT(CheckpointStore(directory.path()).steps(), testing::ElementsAre(3));
}

/// Not a test: the process that the next test kills.
TEST(ResumeChild, DISABLED_Run) {
  const char* directory = std::getenv(kChildDirectory);
  if (directory == nullptr) GTEST_SKIP() << kChildDirectory << " is not set";
  TinyRun run(0.2);
  configure(run);
  run.run(directory, /*resume=*/true);
}

pid_t start_child(const fs::path& directory) {
  const std::string program = fs::read_symlink("/proc/self/exe");
  const pid_t child = fork();
  if (child != 0) return child;
  setenv(kChildDirectory, directory.c_str(), 1);
  execl(program.c_str(), program.c_str(), "--gtest_filter=ResumeChild.DISABLED_Run",
        "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr);
  _exit(127);
}

TEST(Resume, SurvivesSigkillAtAnyMoment) {
  TemporaryDirectory whole_directory;
  TinyRun whole(0.2);
  configure(whole);
  whole.run(whole_directory.path());

  TemporaryDirectory directory;
  int kills = 0;
  for (const int extra_microseconds : {0, 700, 1900, 4300}) {
    const size_t target = static_cast<size_t>(3 + 4 * kills);
    const pid_t child = start_child(directory.path());
    ASSERT_GT(child, 0);
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
      const auto steps = CheckpointStore(directory.path()).steps();
      if (!steps.empty() && steps.back() >= static_cast<int64_t>(target)) {
        std::this_thread::sleep_for(std::chrono::microseconds(extra_microseconds));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        break;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    if (WIFSIGNALED(status)) ++kills;
  }
  EXPECT_GT(kills, 0);
  TinyRun rest(0.2);
  configure(rest);
  rest.run(directory.path(), /*resume=*/true);
  expect_same_run(rest, directory.path(), whole, whole_directory.path());
}

}  // namespace
}  // namespace msplora
