// The batch planner with disks behind its caches, over an engine and disks that do something when they are told to:
// what is restored, what is computed, and that no text depends on it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "sched/testing/planner_bench.h"
#include "sched/testing/texts.h"

namespace shoal {
namespace {

using ::testing::IsEmpty;

constexpr int kVocabulary = 101;

EngineLimits Limits(int stages, int slots = 0, int blocks = 64) {
  return {.blocks = blocks,
          .context = 2048,
          .steps_in_flight = stages,
          .vocabulary = kVocabulary,
          .state_slots = slots};
}

std::vector<int32_t> Text(uint64_t seed, size_t tokens) { return RandomText(seed, tokens, kVocabulary); }

class Bench final : public PlannerBench {
 public:
  explicit Bench(const EngineLimits& limits, const BatchPlannerOptions& options = {},
                 std::function<bool()> fault = {})
      : PlannerBench(limits, options, limits.steps_in_flight) {
    engine_.set_disk_fault(std::move(fault));
    engine_.set_kv_listener([this](uint64_t generation, NodeId node, const KvReport& report) {
      if (generation == generation_) planner_.disk_report(node, slowed(report));
    });
    engine_.tell_disks();
    tell_all();
  }

  bool disk() { return engine_.run_disk(); }
  bool idle() const {
    return planner_.live_ids().empty() && planner_.steps_in_flight() == 0 &&
           planner_.restores_in_flight() == 0;
  }
  /// Until nothing is left to do, saves included.
  void run() override {
    for (int i = 0; i < 100'000; ++i) {
      while (planner_.steps_in_flight() < limits_.steps_in_flight && submit()) {
      }
      if (acknowledge() || disk()) continue;
      ASSERT_TRUE(idle());
      return;
    }
    FAIL() << "it does not end";
  }
  void tell_all() {
    while (disk()) {
    }
  }
  /// A new generation, with empty caches; the disks stay, and tell what they have.
  void restart() {
    begin_anew();
    tell_all();
  }
  /// They tell it later.
  void begin_anew() {
    EXPECT_THAT(planner_.lose_generation({}), IsEmpty());
    begin_generation(limits_);
    engine_.recover(limits_);
  }
  int64_t cached_of_last() const { return cached_tokens.at(last()); }
  FakeEngine& engine() { return engine_; }
  DiskTierStats stats() const { return caches().disk().stats(); }

  int64_t restore_ns = 0;  ///< Of each restore, where not 0.

 private:
  KvReport slowed(KvReport report) const {
    for (RestoreOutcome& one : report.restored) one.ns = restore_ns > 0 ? restore_ns : one.ns;
    return report;
  }
};

TEST(DiskPlanner, AfterARestartTheNextTurnComputesWhatIsNew) {
  for (const int stages : {1, 3}) {
    for (const int slots : {0, 24}) {
      SCOPED_TRACE(fmt::format("{} stages, {} slots", stages, slots));
      Bench bench(Limits(stages, slots));
      std::vector<int32_t> talk = Text(1, 300);
      for (uint64_t turn = 0; turn < 5; ++turn) {
        const size_t before = turn == 0 ? 0 : talk.size() - 17;
        const std::vector<int32_t> answer = bench.ask(talk, 40);
        EXPECT_LE(bench.rows_of[bench.last()] - 39, static_cast<int64_t>(talk.size() - before) + 32) << turn;
        talk = Joined(Joined(talk, answer), Text(100 + turn, 17));
        bench.restart();
      }
      bench.expect_right_answers();
      EXPECT_EQ(bench.stats().hits, 4);
      EXPECT_EQ(bench.stats().failures, 0);
    }
  }
}

TEST(DiskPlanner, WhatIsInMemoryIsNotReadAndWhatIsOnDiskIsNotWrittenAgain) {
  Bench bench(Limits(1));
  bench.ask(Text(1, 320), 4);
  EXPECT_EQ(bench.stats().blocks, 10);
  bench.ask(Joined(Text(1, 320), Text(2, 70)), 4);
  EXPECT_EQ(bench.engine().restored(), 0);
  EXPECT_EQ(bench.stats().blocks, 12);
  bench.restart();
  bench.ask(Joined(Text(1, 160), Text(3, 70)), 4);
  EXPECT_EQ(bench.engine().restored(), 5);
  EXPECT_EQ(bench.cached_of_last(), 160);
  bench.ask(Joined(Text(1, 320), Text(4, 9)), 4);  // Half of it is in memory now.
  EXPECT_EQ(bench.engine().restored(), 10);
  EXPECT_EQ(bench.cached_of_last(), 320);
  EXPECT_EQ(bench.planner().caches().stats().tokens_reused, 320 + 160 + 320);
}

TEST(DiskPlanner, WhatOneStageLacksIsComputed) {
  int64_t records = 0;
  Bench bench(Limits(2), {}, [&] { return ++records == 2 * 4 + 1; });  // The fifth block, on the first stage.
  bench.ask(Text(1, 320), 2);
  EXPECT_EQ(bench.stats().blocks, 9);
  bench.restart();
  bench.ask(Text(1, 330), 2);
  EXPECT_EQ(bench.cached_of_last(), 128);
  bench.expect_right_answers();
}

TEST(DiskPlanner, ARestoreThatEndsEarlyIsComputedFromThere) {
  for (const int slots : {0, 24}) {
    int64_t fails_at = -1;
    int64_t records = 0;
    Bench bench(Limits(2, slots), {}, [&] { return records++ == fails_at; });
    bench.ask(Text(1, 320), 2);
    bench.restart();
    records = 0;
    fails_at = 15;  // The first stage reads ten blocks, and the state; the second some of them.
    bench.ask(Text(1, 330), 2);
    EXPECT_EQ(bench.cached_of_last(), slots > 0 ? 0 : 5 * 32);
    EXPECT_EQ(bench.stats().failures, 1);
    bench.expect_right_answers();
  }
}

TEST(DiskPlanner, OthersRunWhileADiskIsRead) {
  Bench bench(Limits(1));
  bench.ask(Text(1, 320), 2);
  bench.restart();
  const SeqId restored = bench.add(Text(1, 330), 2);
  const SeqId other = bench.add(Text(2, 50), 20);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(bench.submit());
    ASSERT_TRUE(bench.acknowledge());
  }
  EXPECT_EQ(bench.rows_of.count(restored), 0u);
  EXPECT_GT(bench.rows_of[other], 50);
  bench.run();
  EXPECT_EQ(bench.cached_tokens[restored], 320);
  bench.expect_right_answers();
}

TEST(DiskPlanner, WhoEndsWhileItIsRestoredKeepsItsBlocksUntilThen) {
  Bench bench(Limits(2, 0, 12));
  bench.ask(Text(1, 320), 2);
  bench.restart();
  const SeqId gone = bench.add(Text(1, 330), 2);
  ASSERT_TRUE(bench.submit());
  bench.planner().end(gone);
  bench.add(Text(2, 300), 2);  // There is no room for both.
  EXPECT_FALSE(bench.submit());
  EXPECT_EQ(bench.planner().restores_in_flight(), 1);
  bench.run();
  EXPECT_EQ(bench.rows_of.count(gone), 0u);
  bench.expect_right_answers();
}

TEST(DiskPlanner, ABurstOfOneHeadRestoresItOnce) {
  for (const int slots : {0, 32}) {
    Bench bench(Limits(1, slots));
    bench.ask(Text(1, 320), 2);
    bench.restart();
    for (uint64_t i = 0; i < 5; ++i) bench.add(Joined(Text(1, 320), Text(10 + i, 9)), 3);
    bench.run();
    EXPECT_LE(bench.engine().restored(), slots > 0 ? 20 : 10);
    for (const auto& [id, cached] : bench.cached_tokens) {
      if (id.value > 1) {
        EXPECT_GE(cached, slots > 0 ? 256 : 320) << id.value;
      }
    }
    bench.expect_right_answers();
  }
}

TEST(DiskPlanner, WhereComputingIsFasterItIsComputedAndTheDiskIsTriedAgainSomeTime) {
  Bench bench(Limits(1));  // Computes a row in 1000 ns.
  const auto turn = [&](uint64_t i) {
    bench.restart();
    bench.ask(Joined(Text(1, 320), Text(i, 40)), 2);
    return bench.cached_of_last();
  };
  bench.ask(Text(1, 360), 2);
  bench.restore_ns = 10 * 32 * 1000 * 2;
  EXPECT_EQ(turn(10), 320);  // Nothing was known of the disk.
  EXPECT_EQ(turn(11), 0);
  EXPECT_EQ(turn(12), 0);
  bench.restore_ns = 10 * 32 * 10;
  int tries = 0;
  while (turn(20 + static_cast<uint64_t>(tries)) == 0 && tries < 20) ++tries;
  EXPECT_GT(tries, 1);
  EXPECT_LT(tries, 10);
  EXPECT_EQ(turn(50), 320);
  EXPECT_GT(bench.stats().passed_over, 2);
  bench.expect_right_answers();
}

TEST(DiskPlanner, UnderEvictionPreemptionFaultsAndRestartsEveryAnswerIsRight) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    RandomStream random(seed);
    const int stages = 1 + static_cast<int>(random.below(3));
    const int slots = random.below(2) == 0 ? 0 : 10 + static_cast<int>(random.below(12));
    EngineLimits limits = Limits(stages, slots, 18);
    if (slots == 0 && random.below(2) == 0) limits.window = 40 + static_cast<int64_t>(random.below(100));
    SCOPED_TRACE(fmt::format("seed {}: {} stages, {} slots, window {}", seed, stages, slots, limits.window));
    Bench bench(limits, {.rows_per_step = 48}, [&] { return random.below(12) == 0; });
    for (int event = 0; event < 1500; ++event) {
      const auto choice = random.below(20);
      if (choice < 2 && bench.planner().live_ids().size() < 6) {
        std::vector<int32_t> prompt = Text(random.below(3), 32 * (1 + random.below(9)));
        bench.add(Joined(std::move(prompt), Text(random.below(50), 1 + random.below(60))),
                  1 + static_cast<int64_t>(random.below(40)));
      } else if (choice == 2 && random.below(12) == 0) {
        bench.begin_anew();
      } else if (choice == 3 && random.below(6) == 0 && !bench.planner().live_ids().empty()) {
        const std::vector<SeqId> live = bench.planner().live_ids();
        bench.finish(live[random.below(live.size())]);
      } else if (choice < 8) {
        bench.disk();
      } else if (choice < 14) {
        bench.acknowledge();
      } else if (bench.planner().steps_in_flight() < stages) {
        bench.submit();
      }
      const absl::Status sound = bench.planner().verify();
      ASSERT_TRUE(sound.ok()) << ToString(sound);
    }
    bench.run();
    bench.expect_right_answers();
    EXPECT_GT(bench.stats().hits, 0);
    EXPECT_GT(bench.planner().caches().stats().evictions, 0);
    EXPECT_EQ(bench.planner().caches().pool().used_count(), bench.planner().caches().cached());
    if (HasFailure()) return;
  }
}

TEST(DiskIndexTest, ABlockCountsWhereAllStagesHaveIt) {
  DiskIndex index;
  index.reset(2);
  const BlockKey key{1, 2};
  EXPECT_TRUE(index.report(NodeId{0}, {.restart = true, .active = true, .changes = {{key, true}}}).empty());
  EXPECT_FALSE(index.active());
  EXPECT_FALSE(index.on_all(key));
  (void)index.report(NodeId{4}, {.restart = true, .active = true, .changes = {{key, true}, {{3, 4}, true}}});
  EXPECT_TRUE(index.active());
  EXPECT_TRUE(index.on_all(key));
  EXPECT_FALSE(index.on_all({3, 4}));
  EXPECT_EQ(index.stats().blocks, 1);
  (void)index.report(NodeId{7}, {.restart = true, .active = true});  // There are two stages: it is nobody.
  EXPECT_TRUE(index.on_all(key));
  (void)index.report(NodeId{4}, {.active = true, .changes = {{key, false}, {key, true}, {key, false}}});
  EXPECT_FALSE(index.on_all(key));
  EXPECT_EQ(index.stats().blocks, 0);
  (void)index.report(NodeId{4}, {.active = true, .changes = {{key, true}}});
  (void)index.report(NodeId{0}, {.restart = true, .active = true});
  EXPECT_FALSE(index.on_all(key));
  (void)index.report(NodeId{0}, {.active = false, .changes = {{key, true}}});
  EXPECT_FALSE(index.active());
  EXPECT_FALSE(index.on_all(key));
}

TEST(DiskIndexTest, ARestoreIsWhatAllStagesHaveDoneAndStrangersAreIgnored) {
  DiskIndex index;
  index.reset(2);
  index.expect(SeqId{5});
  EXPECT_TRUE(index.report(NodeId{0}, {.restored = {{SeqId{5}, 7, true, 100, 10}, {SeqId{6}, 3}}}).empty());
  EXPECT_TRUE(
      index.report(NodeId{0}, {.restored = {{SeqId{5}, 2, true, 100, 10}}}).empty());  // Told already.
  const auto done = index.report(NodeId{1}, {.restored = {{SeqId{5}, 4, false, 50, 20}}});
  ASSERT_EQ(done.size(), 1u);
  EXPECT_EQ(done[0], (RestoreOutcome{SeqId{5}, 4, false, 150, 20}));
  EXPECT_EQ(index.outstanding(), 0);
}

}  // namespace
}  // namespace shoal
