// What the batch planner has stages copy for their buddies, and what it keeps of a tree of which nodes lack a part.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <utility>
#include <vector>

#include "base/status.h"
#include "sched/testing/planner_bench.h"
#include "sched/testing/texts.h"

namespace shoal {
namespace {

using ::testing::IsEmpty;

constexpr int kVocabulary = 101;

EngineLimits Limits(int blocks = 64, int slots = 0) {
  return {.blocks = blocks,
          .context = 65536,
          .steps_in_flight = 1,
          .vocabulary = kVocabulary,
          .state_slots = slots,
          .copies = true};
}

std::vector<int32_t> Text(uint64_t seed, size_t tokens) { return RandomText(seed, tokens, kVocabulary); }

class Bench final : public PlannerBench {
 public:
  explicit Bench(const EngineLimits& limits, int rows_per_step = 256)
      : PlannerBench(limits, {.rows_per_step = rows_per_step}) {}

  /// One step, if there is one.
  bool step() {
    if (!submit()) return false;
    EXPECT_TRUE(acknowledge());
    return true;
  }
  void run() override {
    while (step()) {
    }
  }
  void copy_again() { planner_.copy_again(); }
  /// Orders of the steps since the last look.
  std::vector<CachedPlace> orders() { return std::exchange(copies, {}); }
  std::vector<CachedPlace> lose() {
    EXPECT_THAT(planner_.lose_generation({}), IsEmpty());
    return planner_.wanted().places;
  }
  void renew(KeptCaches kept, const std::vector<uint64_t>& missing = {}) {
    engine_.lose(Unavailable("lost"));
    begin_generation(limits_, kept, missing);
    engine_.recover_with_caches(limits_);
  }
};

std::set<uint64_t> EntriesOf(const std::vector<CachedPlace>& places) {
  std::set<uint64_t> entries;
  for (const CachedPlace& one : places) entries.insert(one.entry);
  return entries;
}

TEST(CopyPlanner, EachFullBlockIsOrderedOnceAsItIsWantedLater) {
  Bench bench(Limits());
  bench.add(Text(1, 100), 40);
  bench.run();
  const std::vector<CachedPlace> ordered = bench.orders();
  EXPECT_EQ(ordered.size(), 4u);  // Of 139 tokens in the cache.
  EXPECT_EQ(EntriesOf(ordered).size(), 4u);
  const std::vector<CachedPlace> wanted = bench.lose();
  EXPECT_THAT(ordered, ::testing::UnorderedElementsAreArray(wanted));
  bench.add(Text(1, 100), 40);
  bench.renew(KeptCaches::kNone);
  bench.run();
  for (const uint64_t entry : EntriesOf(bench.orders())) EXPECT_FALSE(EntriesOf(ordered).contains(entry));
}

TEST(CopyPlanner, StatesThatAreKeptAreOrderedToo) {
  Bench bench(Limits(64, 8));
  bench.add(Text(2, 100), 4);
  bench.run();
  const std::vector<CachedPlace> ordered = bench.orders();
  const auto states = std::ranges::count_if(
      ordered, [](const CachedPlace& one) { return std::holds_alternative<SlotId>(one.place); });
  EXPECT_EQ(states, 2);  // At the end of the prompt, and a little before it.
  EXPECT_THAT(ordered, ::testing::UnorderedElementsAreArray(bench.lose()));
}

TEST(CopyPlanner, WithoutBuddiesNothingIsOrdered) {
  EngineLimits limits = Limits();
  limits.copies = false;
  Bench bench(limits);
  bench.add(Text(3, 100), 4);
  bench.run();
  EXPECT_THAT(bench.orders(), IsEmpty());
}

TEST(CopyPlanner, ANewGenerationOrdersAllThatIsKeptUnderTheSameNumbers) {
  Bench bench(Limits());
  bench.add(Text(4, 100), 4);
  bench.run();
  const std::vector<CachedPlace> ordered = bench.orders();
  bench.lose();
  bench.renew(KeptCaches::kAll);
  bench.run();
  EXPECT_THAT(bench.orders(), ::testing::UnorderedElementsAreArray(ordered));
}

TEST(CopyPlanner, WhereABuddyIsReplacedAllThatIsCachedIsOrderedAgainInUseOrNot) {
  Bench bench(Limits());
  bench.add(Text(6, 100), 4);
  bench.run();
  bench.add(Text(7, 100), 40);
  ASSERT_TRUE(bench.step());
  ASSERT_TRUE(bench.step());  // It runs, and its blocks are in use.
  const std::vector<CachedPlace> ordered = bench.orders();
  EXPECT_EQ(ordered.size(), 6u);
  bench.copy_again();
  ASSERT_TRUE(bench.step());
  EXPECT_THAT(bench.orders(), ::testing::UnorderedElementsAreArray(ordered));
}

TEST(CopyPlanner, AStepOrdersNoMoreThanOthersCanTake) {
  const int blocks = static_cast<int>(kCopiesPerStepMax) + 100;
  Bench bench(Limits(blocks + 8), 4096);
  bench.add(Text(5, static_cast<size_t>(blocks * kBlockPositions + 1)), 1);
  bench.run();
  bench.orders();
  bench.lose();
  bench.renew(KeptCaches::kAll);
  ASSERT_TRUE(bench.step());
  EXPECT_EQ(std::ssize(bench.orders()), kCopiesPerStepMax);
  bench.run();
  EXPECT_EQ(bench.orders().size(), 100u);
}

TEST(CopyPlanner, WhatGaveWayBeforeTheNextStepIsNotOrdered) {
  Bench bench(Limits(5));
  bench.add(Text(6, 100), 1);
  ASSERT_TRUE(bench.step());  // Three blocks are cached from now on, of five.
  bench.add(Text(7, 140), 1);
  bench.run();
  for (const CachedPlace& one : bench.orders()) EXPECT_GT(one.entry, 3u);
}

TEST(CopyPlanner, WhatANodeLacksLeavesTheTreeWithWhatIsBehindIt) {
  Bench bench(Limits());
  const SeqId left = bench.add(Text(8, 200), 40);
  const SeqId right = bench.add(Text(9, 200), 40);
  while (bench.planner().live_ids().size() < 2 || bench.rows < 400) ASSERT_TRUE(bench.step());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(bench.step());
  const std::vector<CachedPlace> wanted = bench.lose();
  ASSERT_EQ(wanted.size(), 12u);
  std::vector<uint64_t> missing;  // Of one of the two its third block.
  for (const CachedPlace& one : wanted) {
    if (one.position == 96 && missing.empty()) missing.push_back(one.entry);
  }
  bench.renew(KeptCaches::kWanted, missing);
  EXPECT_EQ(bench.planner().caches().cached(), 8);
  EXPECT_EQ(bench.planner().caches().stats().kept, 8);
  bench.run();
  EXPECT_THAT(bench.planner().live_ids(), IsEmpty());
  EXPECT_NE(left, right);
}

}  // namespace
}  // namespace shoal
