// What passes over the wire, what is kept on disk, and continuing from it.
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "federated/tiny_federation.h"
#include "msplora/core/file.h"
#include "msplora/core/interrupt.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBytes = 4, kSites = 6, kHidden = 32, kAdapterRank = 4, kClients = 3;

TEST(Message, PayloadAndFramingAreThoseOfTheFile) {
  Message message{{{"a", at::ones({3, 5})}, {"seed", at::full({1}, 7, at::kLong)}},
                  {{"head", at::ones({2})}},
                  {{"round", "1"}}};
  const Traffic traffic = measure(message);
  EXPECT_EQ(traffic.adapter, 15 * 4 + 8);
  EXPECT_EQ(traffic.others, 8);
  const std::string bytes = serialize(message);
  EXPECT_EQ(traffic.total(), static_cast<int64_t>(bytes.size()));
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  EXPECT_EQ(traffic.framing, static_cast<int64_t>(8 + header));
  // The receiver can read it.
  TemporaryDirectory directory;
  write_file_atomically(directory.path() / "message.safetensors", bytes);
  const auto file = SafetensorsFile::open(directory.path() / "message.safetensors");
  EXPECT_EQ(file->tensor("seed").item<int64_t>(), 7);
  EXPECT_TRUE(at::equal(file->tensor("head"), at::ones({2})));
  EXPECT_EQ(file->metadata().at("round"), "1");
}

/// Adapter bytes of full factors of rank r in every module.
int64_t factor_bytes(int64_t rank) {
  return kSites * rank * (kHidden + kHidden) * kBytes;
}

std::vector<RoundReport> reports_of(TinyFederation& run) {
  run.start().run();
  return run.reports;
}

TEST(Traffic, OfAveragingAggregatorsEqualsTheFormulas) {
  const int64_t head = (kHidden * kHidden + kHidden + 2 * kHidden + 2) * kBytes;
  for (const char* name : {"fedit", "lora_fair", "flexlora"}) {
    SCOPED_TRACE(name);
    TinyFederation run(name);
    for (const RoundReport& report : reports_of(run)) {
      ASSERT_EQ(report.traffic.size(), 3U);
      for (const ClientTraffic& entry : report.traffic) {
        EXPECT_EQ(entry.down.adapter, factor_bytes(kAdapterRank));
        EXPECT_EQ(entry.up.adapter, factor_bytes(kAdapterRank));
        EXPECT_EQ(entry.down.others, head);
        EXPECT_EQ(entry.up.others, head);
        EXPECT_GT(entry.up.framing, 0);
      }
      EXPECT_EQ(report.up.payload(), 3 * (factor_bytes(kAdapterRank) + head));
      EXPECT_EQ(report.total_up.payload(), report.round * 3 * (factor_bytes(kAdapterRank) + head));
      EXPECT_EQ(report.total_down.messages, 3 * report.round);
    }
  }
}

TEST(Traffic, OfFfaIsHalfAndASeed) {
  TinyFederation run("ffa");
  const auto reports = reports_of(run);
  for (const RoundReport& report : reports) {
    for (const ClientTraffic& entry : report.traffic) {
      EXPECT_EQ(entry.up.adapter, kSites * kAdapterRank * kHidden * kBytes);
      EXPECT_EQ(entry.down.adapter, kSites * kAdapterRank * kHidden * kBytes + (report.round == 1 ? 8 : 0));
    }
  }
}

/// The stacks of a round hold `stack_rank`; a client receives those since the round before its last one, or
/// the dense sum where that is smaller.
void expect_stacks(TinyFederation& run, int64_t stack_rank, int64_t factors_down) {
  run.options.rounds = 12;
  run.options.fraction = 0.67;
  std::vector<int64_t> last(kClients);
  int64_t dense = 0, waited = 0;
  for (const RoundReport& report : reports_of(run)) {
    ASSERT_EQ(report.traffic.size(), 2U);
    for (const ClientTraffic& entry : report.traffic) {
      int64_t& before = last[static_cast<size_t>(entry.client)];
      const int64_t missed = report.round - std::max<int64_t>(before, 1);
      const int64_t rank = missed * stack_rank;
      const bool is_dense = rank * 2 * kHidden > kHidden * kHidden;
      const int64_t stack = is_dense ? kSites * kHidden * kHidden * kBytes : factor_bytes(rank);
      EXPECT_EQ(entry.down.adapter, factors_down + stack)
          << "round " << report.round << ", client " << entry.client;
      EXPECT_EQ(entry.up.adapter, factor_bytes(kAdapterRank));
      before = report.round;
      if (is_dense) ++dense;
      if (missed > 1) ++waited;
    }
  }
  EXPECT_GT(waited, 0);  // the case that is easily forgotten
  if (stack_rank == 2 * kAdapterRank) {
    EXPECT_GT(dense, 0);
  }
}

TEST(Traffic, OfFloraCountsTheStacksOfMissedRounds) {
  TinyFederation run("flora");
  expect_stacks(run, 2 * kAdapterRank, 0);
}

TEST(Traffic, OfFedExCountsTheResidualsOfMissedRounds) {
  TinyFederation run("fedex");
  expect_stacks(run, kAdapterRank, factor_bytes(kAdapterRank));
}

/// rounds.jsonl without what the clock decides.
std::vector<std::string> round_lines(const fs::path& directory) {
  std::istringstream lines(read_file(directory / "rounds.jsonl"));
  std::vector<std::string> kept;
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::json::parse(line);
    json.erase("seconds");
    kept.push_back(json.dump());
  }
  return kept;
}

void expect_same_state(const ServerState& a, const ServerState& b) {
  ASSERT_EQ(a.round, b.round);
  ASSERT_EQ(a.pairs.size(), b.pairs.size());
  for (size_t i = 0; i < a.pairs.size(); ++i) {
    EXPECT_TRUE(at::equal(a.pairs[i].down, b.pairs[i].down));
    EXPECT_TRUE(at::equal(a.pairs[i].up, b.pairs[i].up));
  }
  for (size_t i = 0; i < a.others.size(); ++i) EXPECT_TRUE(at::equal(a.others[i].tensor, b.others[i].tensor));
  ASSERT_EQ(a.merged.size(), b.merged.size());
  for (size_t i = 0; i < a.merged.size(); ++i) {
    EXPECT_TRUE(at::equal(a.merged[i].down, b.merged[i].down));
    EXPECT_TRUE(at::equal(a.merged[i].up, b.merged[i].up));
  }
  EXPECT_EQ(a.stacks.size(), b.stacks.size());
  EXPECT_EQ(a.last_round, b.last_round);
  EXPECT_EQ(a.total_down.total(), b.total_down.total());
  EXPECT_EQ(a.total_up.total(), b.total_up.total());
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.last_metrics, b.last_metrics);
}

class Resumed : public testing::TestWithParam<const char*> {
 protected:
  TinyFederation make() const {
    TinyFederation run(GetParam(), 0.1);
    run.options.rounds = 4;
    run.options.fraction = 0.67;
    run.options.held_out = 0.2;
    run.validate = true;
    run.train.schedule = "linear";
    run.train.warmup_ratio = 0.1;
    return run;
  }
};

TEST_P(Resumed, EqualsTheUninterruptedRun) {
  TemporaryDirectory whole_directory, directory;
  TinyFederation whole = make();
  whole.start(whole_directory.path()).run();
  for (const int64_t stop : {1, 3}) {
    SCOPED_TRACE(stop);
    TinyFederation first = make();
    first.options.stop_at = stop;
    first.start(directory.path()).run();
    EXPECT_FALSE(first.federation->finished());
    // A run that was killed may have written the line of a round that it did not save.
    std::ofstream(directory.path() / "rounds.jsonl", std::ios::app)
        << "{\"round\": " << stop + 1 << "}\n{\"rou";
    TinyFederation second = make();
    second.start(directory.path(), /*resume=*/true).run();
    EXPECT_EQ(second.reports.size(), static_cast<size_t>(4 - stop));
    expect_same_state(second.federation->state(), whole.federation->state());
    EXPECT_EQ(round_lines(directory.path()).size(), 4U);
    // A pause brings an evaluation of its own, which an uninterrupted run has too when it evaluates every
    // round.
    EXPECT_EQ(round_lines(directory.path()), round_lines(whole_directory.path()));
  }
}

INSTANTIATE_TEST_SUITE_P(Names, Resumed,
                         testing::Values("fedit", "ffa", "flora", "flexlora", "fedex", "lora_fair"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Federation, KeepsTheNewestRoundsAndRefusesOtherRuns) {
  TemporaryDirectory directory;
  TinyFederation first("fedit");
  first.options.rounds = 3;
  first.options.stop_at = 2;
  first.train.keep_checkpoints = 1;
  first.start(directory.path()).run();
  EXPECT_FALSE(fs::exists(directory.path() / "round-1.safetensors"));
  EXPECT_TRUE(fs::exists(directory.path() / "round-2.safetensors"));

  const auto resumed_error = [&](const std::function<void(TinyFederation&)>& change) -> std::string {
    TinyFederation other("fedit");
    other.options.rounds = 3;
    change(other);
    try {
      other.start(directory.path(), true);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(resumed_error([](TinyFederation& run) { run.train.lr = 1.0; }), testing::HasSubstr("train.lr"));
  EXPECT_THAT(resumed_error([](TinyFederation& run) { run.options.rounds = 5; }),
              testing::HasSubstr("federated.rounds"));
  EXPECT_THAT(resumed_error([](TinyFederation& run) { run.examples_each = 9; }), testing::HasSubstr("data"));
  EXPECT_EQ(resumed_error([](TinyFederation&) {}), "no error");

  TinyFederation fresh("fedit");  // a new run in the directory forgets the old one
  fresh.start(directory.path());
  EXPECT_FALSE(fs::exists(directory.path() / "round-2.safetensors"));
  EXPECT_TRUE(round_lines(directory.path()).empty());
}

/// Loses what passes between the server and some clients, or spoils it.
class FaultyChannel : public Channel {
 public:
  using Fault = std::function<void(int64_t client, Answer& answer)>;
  FaultyChannel(std::unique_ptr<Channel> way, Fault fault) : way_(std::move(way)), fault_(std::move(fault)) {}

  Answer exchange(int64_t client, const Message& message) override {
    Answer answer = way_->exchange(client, message);
    fault_(client, answer);
    return answer;
  }

 private:
  std::unique_ptr<Channel> way_;
  Fault fault_;
};

TEST(Federation, AnAnswerThatIsLostOrSpoiledIsLeftOutWithTheReason) {
  const std::vector<std::pair<FaultyChannel::Fault, std::string>> faults = {
      {[](int64_t, Answer&) { throw Error(ErrorCode::kIo, "client 1", "no answer"); }, "no answer"},
      {[](int64_t, Answer& answer) { answer.message.adapter.pop_back(); }, "is missing in the answer"},
      {[](int64_t, Answer& answer) { answer.message.others.clear(); }, "is missing in the answer"},
      {[](int64_t, Answer& answer) {
         answer.message.adapter[0].tensor = at::ones({3, 3});
       },
       "of shape [3, 3]"},
      {[](int64_t, Answer& answer) { answer.message.adapter[1].tensor.detach().fill_(std::nanf("")); },
       "is not finite"},
      {[](int64_t, Answer& answer) { answer.message.header.clear(); }, "from how many examples"}};
  for (const auto& [fault, reason] : faults) {
    SCOPED_TRACE(reason);
    TinyFederation run("flora");
    run.channel = [&, fault = fault](std::unique_ptr<Channel> way) {
      return std::make_unique<FaultyChannel>(std::move(way), [fault](int64_t client, Answer& answer) {
        if (client == 1) fault(client, answer);
      });
    };
    Federation& federation = run.start();
    const RoundReport report = federation.run_round();
    EXPECT_EQ(report.clients, (std::vector<int64_t>{0, 2}));
    ASSERT_EQ(report.rejected.size(), 1U);
    EXPECT_EQ(report.rejected[0].client, 1);
    EXPECT_THAT(report.rejected[0].reason, testing::HasSubstr(reason));
    // Who was not reached gets what it missed with the next message.
    EXPECT_EQ(federation.state().last_round[1], reason == "no answer" ? 0 : 1);
    EXPECT_NEAR(report.weights[0] + report.weights[1], 1.0, 1e-12);
  }
}

/// A run whose second client never answers is the run of the others.
TEST(Federation, ClientsThatNeverAnswerAreAsIfTheyWereNotThere) {
  TinyFederation deaf("fedit");
  deaf.channel = [](std::unique_ptr<Channel> way) {
    return std::make_unique<FaultyChannel>(std::move(way), [](int64_t client, Answer&) {
      if (client == 2) throw Error(ErrorCode::kIo, "client 2", "no answer");
    });
  };
  deaf.start().run();
  TinyFederation two("fedit");
  two.options.clients = 2;
  two.start().run();
  for (size_t i = 0; i < two.federation->state().pairs.size(); ++i) {
    EXPECT_TRUE(at::equal(deaf.federation->state().pairs[i].up, two.federation->state().pairs[i].up));
  }
}

TEST(Federation, AnInterruptionKeepsTheRoundsBefore) {
  TemporaryDirectory directory;
  TinyFederation run("fedit");
  Federation& federation = run.start(directory.path());
  federation.run_round();
  request_interrupt();
  try {
    federation.run_round();
    ADD_FAILURE() << "not interrupted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
    EXPECT_THAT(error.what(), testing::HasSubstr("--resume"));
  }
  clear_interrupt();
  EXPECT_EQ(federation.state().round, 1);
  federation.run();
  EXPECT_TRUE(federation.finished());
}

}  // namespace
}  // namespace msplora
