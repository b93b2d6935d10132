#include "exec/liveness.h"

#include <gtest/gtest.h>

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

/// A coordinator that looks every quarter of a second at two nodes; time is the test's.
class LivenessWatchTest : public testing::Test {
 protected:
  LivenessWatchTest() { watch_.begin(2, now_); }

  /// Looks for so long, or until a node is late; all others answer each probe at once.
  std::optional<LivenessWatch::Late> look_for(Duration duration) {
    for (const Clock::time_point end = now_ + duration; now_ < end;) {
      now_ += milliseconds(250);
      if (const auto late = watch_.late(now_)) return late;
      if (watch_.probe_is_due(now_)) {
        ++probes_;
        watch_.heard(1, now_);
      }
    }
    return std::nullopt;
  }

  Clock::time_point now_{minutes(5)};
  LivenessWatch watch_{LivenessLimits()};
  int probes_ = 0;
};

TEST_F(LivenessWatchTest, ByDefaultASilentNodeIsFoundWithinFiveSecondsOfItsLastSignOfLife) {
  look_for(seconds(3));
  watch_.heard(0, now_);
  const Clock::time_point heard = now_;
  const auto late = look_for(minutes(1));
  ASSERT_TRUE(late.has_value());
  EXPECT_EQ(late->node, 0u);
  EXPECT_EQ(late->silent, now_ - heard);
  EXPECT_GT(now_ - heard, milliseconds(4500));
  EXPECT_LE(now_ - heard, milliseconds(5000));
}

TEST_F(LivenessWatchTest, ByDefaultANodeThatIsStoppedForTwoSecondsHasAsLongAgainToAnswer) {
  EXPECT_FALSE(look_for(milliseconds(4500)).has_value());
  watch_.heard(0, now_);
  EXPECT_FALSE(look_for(milliseconds(4500)).has_value());
}

TEST_F(LivenessWatchTest, ANodeIsProbedEachSecondFromASecondWithoutAResultOn) {
  look_for(milliseconds(750));
  EXPECT_EQ(probes_, 0);
  look_for(milliseconds(250));
  EXPECT_EQ(probes_, 1);
  look_for(seconds(2));
  EXPECT_EQ(probes_, 3);
  watch_.heard_all(now_);
  look_for(milliseconds(750));
  EXPECT_EQ(probes_, 3);
}

TEST_F(LivenessWatchTest, ANodeThatWasNotProbedIsNotLate) {
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(watch_.late(now_ += milliseconds(250)).has_value());
}

TEST_F(LivenessWatchTest, ACoordinatorThatWasStoppedBlamesNobodyForTheTimeInWhichItDidNotRun) {
  look_for(seconds(2));
  now_ += minutes(10);
  EXPECT_FALSE(watch_.late(now_).has_value());
  watch_.heard(0, now_);
  EXPECT_FALSE(look_for(milliseconds(4500)).has_value());
  // Nor where it runs again and again for a moment, as what came is read then.
  watch_.heard(0, now_);
  for (int i = 0; i < 20; ++i) {
    now_ += seconds(8);
    EXPECT_FALSE(watch_.late(now_).has_value());
    watch_.probe_is_due(now_);
    watch_.heard(0, now_ += milliseconds(1));
    watch_.heard(1, now_);
  }
}

TEST_F(LivenessWatchTest, ASilentNodeIsFoundByACoordinatorThatIsStarvedToo) {
  watch_.probe_is_due(now_ += seconds(1));
  int looks = 0;
  for (; looks < 100 && !watch_.late(now_).has_value(); ++looks) now_ += seconds(3);
  EXPECT_GT(looks, 3);
  EXPECT_LE(looks, 10);
}

TEST_F(LivenessWatchTest, TheLastSignOfLifeLeavesOutTheTimeInWhichNobodyLooked) {
  watch_.heard(0, now_);
  look_for(seconds(2));
  EXPECT_EQ(watch_.last_heard(0, now_), now_ - seconds(2));
  now_ += minutes(1);
  EXPECT_GE(watch_.last_heard(0, now_), now_ - seconds(3));
  EXPECT_LE(watch_.last_heard(0, now_), now_ - seconds(2));
}

TEST_F(LivenessWatchTest, ANodeThatIsGivenUpIsNotFoundAgainUntilTheNextSession) {
  ASSERT_EQ(look_for(minutes(1))->node, 0u);
  watch_.give_up(0);
  EXPECT_FALSE(look_for(minutes(1)).has_value());
  watch_.heard_all(now_);
  EXPECT_TRUE(watch_.gave_up(0));
  watch_.begin(2, now_);
  EXPECT_FALSE(watch_.gave_up(0));
  EXPECT_EQ(look_for(minutes(1))->node, 0u);
}

}  // namespace
}  // namespace shoal
