#include "base/repeater.h"

#include <gtest/gtest.h>

#include <atomic>

namespace shoal {
namespace {

using std::chrono::milliseconds;

TEST(Repeater, ActsAgainAfterThePauseThatTheActAskedFor) {
  std::atomic<int> acts = 0;
  Repeater repeater("repeater", Duration::zero(), [&]() -> Duration {
    return ++acts < 3 ? Duration::zero() : Duration(std::chrono::hours(1));
  });
  const Deadline deadline = Deadline::after(std::chrono::seconds(20));
  while (acts < 3 && !deadline.expired()) std::this_thread::sleep_for(milliseconds(1));
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(acts, 3);
}

TEST(Repeater, StopEndsAPauseAndThenNothingIsDoneAnyMore) {
  std::atomic<int> acts = 0;
  Repeater repeater("repeater", std::chrono::hours(1), [&]() -> Duration {
    ++acts;
    return Duration::zero();
  });
  const Clock::time_point begin = Clock::now();
  repeater.stop();
  repeater.stop();
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(20));
  EXPECT_EQ(acts, 0);
}

TEST(Repeater, StopWaitsForTheActThatGoesOn) {
  std::atomic<bool> begun = false;
  std::atomic<bool> ended = false;
  Repeater repeater("repeater", Duration::zero(), [&]() -> Duration {
    begun = true;
    std::this_thread::sleep_for(milliseconds(30));
    ended = true;
    return std::chrono::hours(1);
  });
  while (!begun) std::this_thread::yield();
  repeater.stop();
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace shoal
