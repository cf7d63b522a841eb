#include "msplora/core/progress.h"

#include <gtest/gtest.h>

#include <csignal>
#include <string>

#include "msplora/core/interrupt.h"
#include "msplora/core/threads.h"

namespace msplora {
namespace {

std::string content(std::FILE* file) {
  std::fflush(file);
  std::rewind(file);
  std::string text;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text.push_back(static_cast<char>(c));
  return text;
}

TEST(Progress, FormatsDurationsAndCounts) {
  EXPECT_EQ(format_duration(42.4), "0:42");
  EXPECT_EQ(format_duration(187), "3:07");
  EXPECT_EQ(format_duration(7509), "2:05:09");
  EXPECT_EQ(format_duration(-1), "0:00");
  EXPECT_EQ(format_count(912), "912");
  EXPECT_EQ(format_count(13400), "13.4k");
  EXPECT_EQ(format_count(2050000), "2.05M");
}

TEST(Progress, PrintsOnlyLinesWhereThereIsNoTerminal) {
  std::FILE* file = std::tmpfile();
  {
    Progress progress("train", 10, file);
    progress.update(3, "loss 1");
    progress.line("a line");
    progress.update(10);
  }
  EXPECT_EQ(content(file), "a line\n");
  std::fclose(file);
}

TEST(Progress, RedrawsInPlaceOnATerminal) {
  std::FILE* file = std::tmpfile();
  {
    Progress progress("train", 10, file, /*is_terminal=*/true);
    progress.update(5, "loss 1");
    progress.line("a line");
  }
  const std::string text = content(file);
  EXPECT_NE(text.find("train [############............] 5/10  loss 1"), std::string::npos) << text;
  EXPECT_NE(text.find("\r\x1b[Ka line\n"), std::string::npos) << text;
  std::fclose(file);
}

TEST(Interrupt, ASignalAsksForAStop) {
  install_interrupt_handler();
  EXPECT_FALSE(interrupt_requested());
  std::raise(SIGINT);
  EXPECT_TRUE(interrupt_requested());
  clear_interrupt();
  EXPECT_FALSE(interrupt_requested());
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

TEST(Interrupt, ASecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        install_interrupt_handler();
        std::raise(SIGINT);
        std::raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "");
}

TEST(Threads, AtLeastOne) {
  EXPECT_GE(machine_threads(), 1);
}

// Nobody looks at a terminal that was closed, and no work ends for it.
TEST(Progress, GoesOnWhereNothingCanBeWritten) {
  std::FILE* const full = std::fopen("/dev/full", "w");
  if (full == nullptr) GTEST_SKIP() << "no /dev/full";
  {
    Progress progress("training", 10, full, true);
    for (int64_t step = 1; step <= 10; ++step) progress.update(step, "loss 1");
    progress.line("evaluation");
  }
  std::fclose(full);
}

}  // namespace
}  // namespace msplora
