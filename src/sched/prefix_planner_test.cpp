// The batch planner with the prefix cache, over an engine that runs a step when it is told to: what sequences
// compute, what they leave behind, and that no text depends on it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "sched/testing/planner_bench.h"
#include "sched/testing/texts.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int kVocabulary = 101;
constexpr EngineLimits kLimits{
    .blocks = 64, .context = 2048, .steps_in_flight = 1, .vocabulary = kVocabulary};
constexpr EngineLimits kStates{
    .blocks = 64, .context = 2048, .steps_in_flight = 1, .vocabulary = kVocabulary, .state_slots = 16};

std::vector<int32_t> Text(uint64_t seed, size_t tokens) { return RandomText(seed, tokens, kVocabulary); }

class Bench final : public PlannerBench {
 public:
  using PlannerBench::PlannerBench;
  /// The oldest step comes back.
  void acknowledge() { ASSERT_TRUE(PlannerBench::acknowledge()); }
  /// Until nothing waits or runs.
  void run() override {
    while (!planner_.live_ids().empty() || planner_.steps_in_flight() > 0) {
      while (planner_.steps_in_flight() < limits_.steps_in_flight && submit()) {
      }
      ASSERT_NO_FATAL_FAILURE(acknowledge());
      const absl::Status sound = planner_.verify();
      ASSERT_TRUE(sound.ok()) << ToString(sound);
    }
  }
  void lose(const EngineLimits& limits) {
    EXPECT_THAT(planner_.lose_generation({}), IsEmpty());
    begin_generation(limits);
    engine_.recover(limits);
  }
  int64_t used() const { return caches().pool().used_count() - caches().cached(); }
};

TEST(PrefixPlanner, TheNextTurnComputesWhatIsNewAndAtMostABlock) {
  for (const EngineLimits& limits : {kLimits, kStates}) {
    Bench bench(limits);
    std::vector<int32_t> talk = Text(1, 300);
    for (uint64_t turn = 0; turn < 8; ++turn) {
      const size_t before = turn == 0 ? 0 : talk.size() - 17;
      const std::vector<int32_t> answer = bench.ask(talk, 40);
      EXPECT_LE(bench.rows_of[bench.last()] - 39, static_cast<int64_t>(talk.size() - before) + 32);
      talk = Joined(Joined(talk, answer), Text(100 + turn, 17));
    }
    bench.expect_right_answers();
    EXPECT_EQ(bench.used(), 0);
    EXPECT_EQ(bench.caches().stats().hits, 7);
    EXPECT_EQ(bench.caches().stats().misses, 1);
  }
}

TEST(PrefixPlanner, AtLeastTheLastTokenOfAPromptIsComputed) {
  Bench bench(kLimits);
  bench.ask(Text(1, 64), 1);
  bench.ask(Text(1, 64), 1);
  EXPECT_EQ(bench.cached_tokens[bench.last()], 32);
  bench.ask(Joined(Text(1, 64), {5}), 3);  // Starts as a decode.
  EXPECT_EQ(bench.cached_tokens[bench.last()], 64);
  EXPECT_EQ(bench.rows_of[bench.last()], 3);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, WithoutItEverythingIsComputedAndNothingStays) {
  Bench bench(kLimits, {.prefix_cache = false});
  bench.ask(Text(1, 100), 4);
  bench.ask(Text(1, 100), 4);
  EXPECT_EQ(bench.rows, 2 * 103);
  EXPECT_EQ(bench.caches().pool().free_count(), 64);
  EXPECT_EQ(bench.caches().stats().hits + bench.caches().stats().tokens_reused, 0);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, ABurstOfOnePrefixComputesItOnce) {
  for (EngineLimits limits : {kLimits, kStates}) {
    limits.steps_in_flight = 3;
    Bench bench(limits, {.rows_per_step = 64});
    for (uint64_t i = 0; i < 6; ++i) bench.add(Joined(Text(1, 640), Text(10 + i, 9)), 3);
    for (uint64_t i = 0; i < 3; ++i)
      bench.add(Joined(Text(1, 640), Text(10, 9)), 3);  // Choices of one request.
    bench.run();
    bench.expect_right_answers();
    EXPECT_LE(bench.rows, 640 + 9 * (9 + 3 + 32));
    EXPECT_EQ(bench.caches().stats().misses, 1);
  }
}

TEST(PrefixPlanner, WhoHasAnotherPrefixIsNotHeldUpByThoseWhoWait) {
  Bench bench(kLimits, {.rows_per_step = 64});
  const SeqId leader = bench.add(Text(1, 200), 2);
  const SeqId follower = bench.add(Joined(Text(1, 128), Text(2, 9)), 2);
  const SeqId other = bench.add(Text(3, 40), 2);
  ASSERT_TRUE(bench.submit());
  EXPECT_EQ(bench.planner().find(leader)->state, SequenceState::kRunning);
  EXPECT_EQ(bench.planner().find(follower)->state, SequenceState::kWaiting);
  EXPECT_EQ(bench.planner().find(other)->state, SequenceState::kRunning);
  bench.acknowledge();
  bench.run();
  EXPECT_EQ(bench.cached_tokens[follower], 128);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, WhoWaitsGoesOnWhenTheOneItWaitsForEnds) {
  Bench bench(kLimits, {.rows_per_step = 64});
  const SeqId leader = bench.add(Text(1, 400), 2);
  const SeqId follower = bench.add(Joined(Text(1, 380), Text(2, 9)), 2);
  const SeqId third = bench.add(Joined(Text(1, 380), Text(3, 9)), 2);
  ASSERT_TRUE(bench.submit());
  bench.acknowledge();
  ASSERT_TRUE(bench.submit());
  bench.finish(leader);  // With a step in flight, which still writes blocks.
  EXPECT_FALSE(bench.submit());
  bench.acknowledge();
  ASSERT_TRUE(bench.submit());
  EXPECT_EQ(bench.planner().find(follower)->state, SequenceState::kRunning);
  EXPECT_EQ(bench.planner().find(third)->state, SequenceState::kWaiting);
  bench.acknowledge();
  bench.run();
  EXPECT_EQ(bench.cached_tokens[follower], 128);
  EXPECT_EQ(bench.cached_tokens[third], 352);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, ABlockIsSharedOnlyAfterTheStepThatWroteItIsBack) {
  EngineLimits limits = kLimits;
  limits.steps_in_flight = 2;
  Bench bench(limits, {.rows_per_step = 64});
  bench.add(Text(1, 64), 5);
  ASSERT_TRUE(bench.submit());
  EXPECT_EQ(bench.caches().cached(), 0);
  const SeqId second = bench.add(Joined(Text(1, 64), {1, 2}), 1);
  EXPECT_FALSE(bench.submit());
  EXPECT_EQ(bench.planner().find(second)->state, SequenceState::kWaiting);
  bench.acknowledge();
  ASSERT_TRUE(bench.submit());
  EXPECT_EQ(bench.cached_tokens[second], 64);
  bench.run();
  bench.expect_right_answers();
}

TEST(PrefixPlanner, CachedBlocksGiveWayBeforeAnybodyIsPreempted) {
  EngineLimits limits = kLimits;
  limits.blocks = 12;
  Bench bench(limits);
  bench.ask(Text(1, 150), 2);
  bench.ask(Text(2, 150), 2);
  EXPECT_EQ(bench.caches().cached(), 8);
  bench.add(Text(3, 120), 120);
  bench.add(Text(4, 60), 60);
  bench.run();
  EXPECT_EQ(bench.planner().preemptions(), 0);
  EXPECT_GT(bench.caches().stats().evictions, 0);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, APreemptedSequenceGoesOnFromItsBlocks) {
  EngineLimits limits = kLimits;
  limits.blocks = 8;
  Bench bench(limits);
  const SeqId first = bench.add(Text(1, 60), 90);
  const SeqId second = bench.add(Text(2, 60), 70);
  bench.run();
  EXPECT_GT(bench.planner().preemptions(), 0);
  EXPECT_LT(bench.rows_of[first] + bench.rows_of[second], 2 * 60 + 90 + 70 + 64);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, SequencesThatGenerateTheSameShareTheBlocksOfIt) {
  Bench bench(kLimits);
  // Of each other, too: only one block for every 32 tokens that all have generated.
  for (int i = 0; i < 4; ++i) bench.add(Text(1, 64), 200);
  while (bench.planner().find(SeqId{1}) == nullptr || bench.planner().find(SeqId{1})->generated() < 150) {
    ASSERT_TRUE(bench.submit());
    bench.acknowledge();
  }
  EXPECT_LE(bench.used(), (64 + 160) / 32 + 4 * 2);
  bench.run();
  bench.expect_right_answers();
}

TEST(PrefixPlanner, AFailedSequenceLeavesNothingOfTheStepInWhichItFailed) {
  Bench bench(kLimits, {.rows_per_step = 64});
  const SeqId bad = bench.add(Text(1, 200), 2);
  ASSERT_TRUE(bench.submit());
  bench.acknowledge();
  ASSERT_TRUE(bench.submit());
  bench.tamper = [&](StepResult& result) { result.sequences = {{bad, {}, OutOfRange("not finite")}}; };
  bench.acknowledge();
  bench.tamper = {};
  EXPECT_EQ(bench.caches().cached(), 2);
  bench.ask(Text(1, 200), 2);
  EXPECT_EQ(bench.cached_tokens[bench.last()], 64);
}

TEST(PrefixPlanner, LongSequencesDoNotStartFromBlocksOfShortRope) {
  EngineLimits limits = kLimits;
  limits.short_rope_positions = 128;
  Bench bench(limits);
  bench.ask(Text(1, 100), 10);
  bench.ask(Text(1, 300), 10);
  EXPECT_EQ(bench.cached_tokens[bench.last()], 0);
  bench.ask(Text(1, 290), 10);
  EXPECT_EQ(bench.cached_tokens[bench.last()], 288);
  bench.ask(Text(1, 110), 40);  // Begins again when it outgrows short rope, behind what is cached for long.
  EXPECT_EQ(bench.cached_tokens[bench.last()], 96);
  bench.ask(Text(1, 110), 10);
  EXPECT_EQ(bench.cached_tokens[bench.last()], 96);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, ALostGenerationTakesTheCacheAlong) {
  Bench bench(kStates);
  bench.ask(Text(1, 100), 4);
  bench.add(Joined(Text(1, 100), Text(2, 30)), 4);
  ASSERT_TRUE(bench.submit());
  bench.lose(kStates);
  EXPECT_EQ(bench.caches().pool().free_count(), 64);
  bench.run();
  EXPECT_EQ(bench.rows_of[bench.last()], 130 - 96 + 130 + 3);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, AStateIsKeptAtTheEndOfAPromptAndALittleBeforeIt) {
  Bench bench(kStates);
  bench.ask(Text(1, 330), 4);
  const int64_t kept = bench.caches().stats().tokens_reused;
  EXPECT_EQ(kept, 0);
  bench.ask(Joined(Text(1, 325), Text(2, 50)), 4);
  EXPECT_EQ(bench.cached_tokens[bench.last()], 320);
  bench.ask(Joined(Text(1, 300), Text(3, 50)), 4);  // An opening of 30 tokens was not repeated.
  EXPECT_EQ(bench.cached_tokens[bench.last()], 256);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, AStateIsKeptWhereTwoPromptsPart) {
  Bench bench(kStates);
  bench.ask(Joined(Text(1, 200), Text(2, 300)), 2);
  bench.ask(Joined(Text(1, 200), Text(3, 300)), 2);
  EXPECT_EQ(bench.cached_tokens[bench.last()], 0);  // No state there yet.
  bench.ask(Joined(Text(1, 200), Text(4, 300)), 2);
  EXPECT_EQ(bench.cached_tokens[bench.last()], 192);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, SnapshotsGiveTheirSlotsToSequences) {
  EngineLimits limits = kStates;
  limits.state_slots = 9;
  Bench bench(limits);
  for (uint64_t i = 0; i < 4; ++i) bench.ask(Text(1 + i, 100), 40);
  for (uint64_t i = 0; i < 3; ++i) bench.add(Text(20 + i, 100), 40);
  ASSERT_TRUE(bench.submit());
  EXPECT_EQ(bench.planner().running(), 3);
  bench.acknowledge();
  bench.run();
  bench.expect_right_answers();
}

struct Load {
  const char* name;
  EngineLimits limits;
  BatchPlannerOptions options;
};

void PrintTo(const Load& load, std::ostream* out) { *out << load.name; }

/// A request, and the turn of the test in which it comes.
struct Arrival {
  uint64_t turn = 0;
  std::vector<int32_t> prompt;
  int64_t max_tokens = 0;
  uint64_t cancelled = 0;  ///< The turn in which it ends, if it has not before; 0: never.
};

/// Prompts that go on where others end, or share a head of any length with them.
std::vector<Arrival> Arrivals(uint64_t seed) {
  RandomStream random(seed);
  std::vector<Arrival> all;
  std::vector<std::vector<int32_t>> texts = {Text(seed, 90), Text(seed + 1, 40)};
  uint64_t turn = 0;
  for (int i = 0; i < 60; ++i) {
    turn += random.below(12);
    std::vector<int32_t> prompt = texts[random.below(texts.size())];
    if (random.below(3) == 0) prompt.resize(1 + random.below(prompt.size()));
    prompt = Joined(std::move(prompt), Text(random.bits(), random.below(30)));
    if (prompt.size() > 170) prompt.resize(170);
    Arrival one{turn, prompt, static_cast<int64_t>(1 + random.below(40))};
    if (random.below(8) == 0) one.cancelled = turn + random.below(40);
    const std::vector<int32_t> answer =
        ExpectedTokens(HashModel(kVocabulary), prompt, static_cast<int>(one.max_tokens));
    texts.push_back(random.below(2) == 0 ? prompt : Joined(prompt, answer));
    all.push_back(std::move(one));
  }
  return all;
}

class RandomLoad : public ::testing::TestWithParam<Load> {
 protected:
  void run(uint64_t seed, bool prefix_cache) {
    BatchPlannerOptions options = GetParam().options;
    options.prefix_cache = prefix_cache;
    if (prefix_cache) options.target_itl = std::chrono::microseconds(20);  // Of which a row takes one.
    Bench bench(GetParam().limits, options);
    RandomStream random(seed);
    const std::vector<Arrival> arrivals = Arrivals(seed);
    std::vector<SeqId> ids;
    for (uint64_t turn = 0; turn < 800; ++turn) {
      while (ids.size() < arrivals.size() && arrivals[ids.size()].turn <= turn) {
        bench.party = std::string(1, static_cast<char>('a' + random.below(3)));
        bench.priority = static_cast<int>(random.below(3));
        ids.push_back(bench.add(arrivals[ids.size()].prompt, arrivals[ids.size()].max_tokens));
      }
      for (size_t i = 0; i < ids.size(); ++i) {
        if (arrivals[i].cancelled == turn && bench.planner().find(ids[i]) != nullptr) bench.finish(ids[i]);
      }
      if (bench.planner().steps_in_flight() < GetParam().limits.steps_in_flight && random.below(3) > 0) {
        bench.submit();
      }
      if (bench.planner().steps_in_flight() > 0 && random.below(3) > 0) bench.acknowledge();
      const absl::Status sound = bench.planner().verify();
      ASSERT_TRUE(sound.ok()) << ToString(sound);
    }
    bench.run();
    bench.expect_right_answers();
    EXPECT_EQ(bench.answers.size(), 60u);
    EXPECT_EQ(bench.used(), 0);
    rows_[prefix_cache] += bench.rows;
    evictions_ += bench.caches().stats().evictions;
    hits_ += bench.caches().stats().hits;
  }

  std::map<bool, int64_t> rows_;
  int64_t evictions_ = 0;
  int64_t hits_ = 0;
};

TEST_P(RandomLoad, GivesTheAnswersThatItGivesWithoutThePrefixCache) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    run(seed * 1000, true);
    run(seed * 1000, false);
    if (HasFailure()) return;
  }
  EXPECT_LT(rows_[true], rows_[false]);
  EXPECT_GT(hits_, 20);  // States have to be where prompts part.
  EXPECT_GT(evictions_, 100);
}

INSTANTIATE_TEST_SUITE_P(
    Loads, RandomLoad,
    ::testing::Values(
        Load{"one_stage", {.blocks = 20, .context = 256, .vocabulary = kVocabulary}, {.rows_per_step = 48}},
        Load{"tight_pipeline",
             {.blocks = 9, .context = 256, .steps_in_flight = 3, .vocabulary = kVocabulary},
             {.rows_per_step = 24, .sequences_max = 6}},
        Load{"long_rope",
             {.blocks = 20,
              .context = 256,
              .steps_in_flight = 2,
              .vocabulary = kVocabulary,
              .short_rope_positions = 60},
             {.rows_per_step = 32}},
        Load{"states",
             {.blocks = 20,
              .context = 256,
              .steps_in_flight = 2,
              .vocabulary = kVocabulary,
              .state_slots = 12},
             {.rows_per_step = 40}},
        Load{
            "few_states",
            {.blocks = 30, .context = 256, .steps_in_flight = 3, .vocabulary = kVocabulary, .state_slots = 9},
            {.rows_per_step = 33}}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(PrefixPlanner, BlocksBehindTheWindowsOfAllLayersMakeRoom) {
  for (const int stages : {1, 3}) {
    for (const bool prefix_cache : {false, true}) {
      SCOPED_TRACE(fmt::format("{} stages, prefix cache {}", stages, prefix_cache));
      EngineLimits limits = kLimits;
      limits.blocks = 12;
      limits.steps_in_flight = stages;
      const auto preemptions = [&](int64_t window) {
        limits.window = window;
        Bench bench(limits, {.prefix_cache = prefix_cache});
        // 10 blocks each at the end, of which 3 are within a window.
        for (uint64_t i = 0; i < 3; ++i) bench.add(Text(i, 40), 280);
        bench.run();
        bench.expect_right_answers();
        return bench.planner().preemptions();
      };
      EXPECT_GT(preemptions(limits.context), 0);
      EXPECT_EQ(preemptions(64), 0);
    }
  }
}

TEST(PrefixPlanner, WhatIsBehindTheWindowsStaysCachedWhileThereIsRoom) {
  EngineLimits limits = kLimits;
  limits.window = 64;
  Bench bench(limits);
  const std::vector<int32_t> prompt = Text(1, 300);
  const std::vector<int32_t> answer = bench.ask(prompt, 100);
  bench.ask(Joined(Joined(prompt, answer), Text(2, 20)), 3);
  EXPECT_EQ(bench.cached_tokens[bench.last()], 384);
  bench.expect_right_answers();
}

TEST(PrefixPlanner, AHeadThatOthersUseIsNotTakenFromThemBehindAWindow) {
  EngineLimits limits = kLimits;
  limits.window = 40;
  limits.blocks = 24;
  Bench bench(limits, {.rows_per_step = 64});
  for (uint64_t i = 0; i < 5; ++i) bench.add(Joined(Text(1, 160), Text(10 + i, 9)), 200);
  bench.run();
  bench.expect_right_answers();
  EXPECT_GT(bench.caches().stats().hits, 3);
}

}  // namespace
}  // namespace shoal
