// Which thread sees whose stop.
#include <gtest/gtest.h>

#include <stop_token>
#include <thread>

#include "msplora/core/interrupt.h"

namespace msplora {
namespace {

TEST(StopScopes, AreSeenWhereTheyLive) {
  std::stop_source outer, inner;
  EXPECT_EQ(StopScope::current(), nullptr);
  {
    const StopScope around(outer.get_token());
    {
      const StopScope scope(inner.get_token());
      EXPECT_FALSE(interrupt_requested());
      inner.request_stop();
      EXPECT_TRUE(interrupt_requested());
    }
    EXPECT_FALSE(interrupt_requested());
    outer.request_stop();
    EXPECT_TRUE(interrupt_requested());
    const StopScope scope{std::stop_token()};  // nobody can ask it
    EXPECT_TRUE(interrupt_requested());
  }
  EXPECT_FALSE(interrupt_requested());
  EXPECT_EQ(StopScope::current(), nullptr);
}

TEST(StopScopes, OtherThreadsSeeWhatTheyAreGiven) {
  std::stop_source source, own;
  const StopScope scope(source.get_token());
  const StopScope* const caller = StopScope::current();
  source.request_stop();
  bool alone = true, given = false, after = true;
  std::jthread([&] {
    const StopScope unrelated(own.get_token());
    alone = interrupt_requested();
    {
      const StopScope with(caller);
      given = interrupt_requested();
    }
    after = interrupt_requested();
  }).join();
  EXPECT_FALSE(alone);
  EXPECT_TRUE(given);
  EXPECT_FALSE(after);
  const StopScope none(static_cast<const StopScope*>(nullptr));
  EXPECT_FALSE(interrupt_requested());
  request_interrupt();
  EXPECT_TRUE(interrupt_requested());
  clear_interrupt();
}

}  // namespace
}  // namespace msplora
