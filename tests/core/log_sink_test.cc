// Where lines of the log go, and who collects warnings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "msplora/core/log.h"

namespace msplora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Lines = std::vector<std::pair<LogLevel, std::string>>;

class LogSinks : public ::testing::Test {
 protected:
  ~LogSinks() override {
    set_log_sink({});
    set_log_level(LogLevel::kInfo);
    set_log_format(LogFormat::kText);
  }
  void collect() {
    set_log_sink([this](LogLevel level, std::string_view message) { lines_.emplace_back(level, message); });
  }

  Lines lines_;
};

TEST_F(LogSinks, MessagesArriveAsTheyWereSaidAndLevelsFilter) {
  collect();
  set_log_format(LogFormat::kJson);
  testing::internal::CaptureStderr();
  log_info("a \"b\"\n\x1b");
  log_warning("careful");
  log(LogLevel::kDebug, "not shown");
  set_log_level(LogLevel::kError);
  log_warning("not shown either");
  log(LogLevel::kError, "bad");
  set_log_level(LogLevel::kInfo);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(lines_, (Lines{{LogLevel::kInfo, "a \"b\"\n\x1b"},
                           {LogLevel::kWarning, "careful"},
                           {LogLevel::kError, "bad"}}));
  set_log_format(LogFormat::kText);
  set_log_sink({});
  testing::internal::CaptureStderr();
  log_warning("back");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "warning: back\n");
  EXPECT_EQ(lines_.size(), 3U);
}

TEST_F(LogSinks, WhatASinkThrowsGoesNoFurther) {
  set_log_sink([](LogLevel, std::string_view) { throw std::runtime_error("full"); });
  testing::internal::CaptureStderr();
  EXPECT_NO_THROW(log_info("kept"));
  EXPECT_NO_THROW(log_warning("too"));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "kept\nwarning: too\n");
  collect();
  log_info("goes on");
  EXPECT_EQ(lines_.size(), 1U);
}

TEST_F(LogSinks, ASinkMayLogAndSetAnother) {
  set_log_sink([this](LogLevel level, std::string_view message) {
    log_info("from within");
    collect();
    lines_.emplace_back(level, message);
  });
  testing::internal::CaptureStderr();
  log_info("one");
  log_info("two");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "from within\n");
  EXPECT_EQ(lines_, (Lines{{LogLevel::kInfo, "one"}, {LogLevel::kInfo, "two"}}));
}

// One call at a time (`lines` is not guarded), and none of a sink once another is set.
TEST_F(LogSinks, ManyThreadsLogWhileSinksChange) {
  constexpr int kThreads = 4, kLines = 2000;
  std::atomic<int> taken{0};
  set_log_sink([&](LogLevel, std::string_view) { ++taken; });
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([] {
      for (int line = 0; line < kLines; ++line) log_info("line");
    });
  }
  while (taken < kThreads * kLines) {
    std::vector<std::string> lines;
    bool is_gone = false;
    set_log_sink([&](LogLevel, std::string_view message) {
      EXPECT_FALSE(is_gone);
      lines.emplace_back(message);
      ++taken;
    });
    std::this_thread::yield();
    set_log_sink([&](LogLevel, std::string_view) { ++taken; });
    is_gone = true;
  }
  threads.clear();  // joins them
  EXPECT_EQ(taken, kThreads * kLines);
}

TEST_F(LogSinks, WarningsAreCollectedOnTheirOwnThreadOnce) {
  collect();
  set_log_level(LogLevel::kOff);
  std::vector<std::string> outer, inner, other;
  {
    const WarningCollector all(outer);
    log_warning("first");
    {
      const WarningCollector some(inner);
      log_warning("second");
      log_warning("second");
      log_info("no warning");
    }
    std::jthread([&] {
      const WarningCollector own(other);
      log_warning("third");
    }).join();
    log_warning("first");
    for (int i = 0; i < 200; ++i) log_warning("many " + std::to_string(i));
  }
  log_warning("after");
  EXPECT_EQ(outer.size(), 100U);
  EXPECT_EQ(outer[0] + ", " + outer[1] + ", " + outer[2], "first, second, many 0");
  EXPECT_THAT(inner, ElementsAre("second"));
  EXPECT_THAT(other, ElementsAre("third"));
}

// Two runs on one model: each has the warning in its summary.
TEST_F(LogSinks, WhatIsShownOnceIsCollectedByAll) {
  collect();
  std::vector<std::string> one, two;
  for (auto* to : {&one, &two}) {
    const WarningCollector collector(*to);
    log_warning_once("of a file that both read");
  }
  EXPECT_EQ(lines_.size(), 1U);
  EXPECT_EQ(one, two);
  EXPECT_THAT(two, ElementsAre("of a file that both read"));
}

}  // namespace
}  // namespace msplora
