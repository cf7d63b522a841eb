#include "msplora/core/profile.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace msplora {
namespace {

std::map<std::string, ProfileEntry> by_name(const std::vector<ProfileEntry>& entries) {
  std::map<std::string, ProfileEntry> map;
  for (const ProfileEntry& entry : entries) map[entry.name] = entry;
  return map;
}

TEST(Profile, SelfTimesLeaveOutWhatIsInside) {
  start_profile();
  {
    const ProfileScope outer("outer");
    for (int i = 0; i < 3; ++i) {
      const ProfileScope inner("inner");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  auto entries = by_name(stop_profile());
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries["outer"].calls, 1);
  EXPECT_EQ(entries["inner"].calls, 3);
  EXPECT_GE(entries["inner"].seconds, 0.003);
  EXPECT_GE(entries["outer"].seconds, entries["inner"].seconds);
  EXPECT_NEAR(entries["outer"].self_seconds + entries["inner"].self_seconds, entries["outer"].seconds, 1e-9);
}

TEST(Profile, NothingIsMeasuredUnlessAskedFor) {
  { const ProfileScope scope("before"); }
  start_profile();
  EXPECT_TRUE(stop_profile().empty());
}

TEST(Profile, AScopeOfAnotherThreadIsNotInsideOfThisOnes) {
  start_profile();
  {
    const ProfileScope outer("outer");
    std::thread([] { const ProfileScope inner("other thread"); }).join();
  }
  auto entries = by_name(stop_profile());
  EXPECT_EQ(entries["other thread"].calls, 1);
  EXPECT_DOUBLE_EQ(entries["outer"].self_seconds, entries["outer"].seconds);
}

TEST(Profile, AScopeThatOutlivesTheProfileIsLeftOut) {
  start_profile();
  {
    const ProfileScope scope("late");
    EXPECT_TRUE(stop_profile().empty());
  }
  start_profile();
  EXPECT_TRUE(stop_profile().empty());
}

}  // namespace
}  // namespace msplora
