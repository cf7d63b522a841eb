#include "msplora/train/schedule.h"

#include <gtest/gtest.h>
#include <string>

#include "msplora/core/error.h"

namespace msplora {
namespace {

// Values printed by transformers.get_{linear,cosine,constant}_schedule_with_warmup.
TEST(Schedule, LinearWithWarmup) {
  const Schedule schedule("linear", 10, 2);
  const double expected[] = {0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0};
  for (int64_t step = 0; step <= 10; ++step) EXPECT_DOUBLE_EQ(schedule.factor(step), expected[step]) << step;
}

TEST(Schedule, CosineWithWarmup) {
  const Schedule schedule("cosine", 10, 2);
  const double expected[] = {0.0,
                             0.5,
                             1.0,
                             0.9619397662556434,
                             0.8535533905932737,
                             0.6913417161825449,
                             0.5,
                             0.3086582838174551,
                             0.14644660940672627,
                             0.03806023374435663,
                             0.0};
  for (int64_t step = 0; step <= 10; ++step)
    EXPECT_NEAR(schedule.factor(step), expected[step], 1e-15) << step;
}

TEST(Schedule, ConstantAndRatio) {
  const Schedule schedule("constant", 100, 0, 0.035);
  EXPECT_EQ(schedule.warmup_steps(), 4);  // 3.5 rounded up, as transformers does
  EXPECT_DOUBLE_EQ(schedule.factor(3), 0.75);
  EXPECT_DOUBLE_EQ(schedule.factor(4), 1.0);
  EXPECT_DOUBLE_EQ(schedule.factor(99), 1.0);
}

TEST(Schedule, WithoutWarmupStartsAtThePeak) {
  EXPECT_DOUBLE_EQ(Schedule("linear", 4, 0).factor(0), 1.0);
  EXPECT_DOUBLE_EQ(Schedule("linear", 4, 0).factor(3), 0.25);
}

TEST(Schedule, NamesTheNearest) {
  try {
    Schedule("liner", 4, 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(error.hint().find("linear"), std::string::npos);
  }
}

}  // namespace
}  // namespace msplora
