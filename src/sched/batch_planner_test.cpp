#include "sched/batch_planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <numeric>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr EngineLimits kLimits{.blocks = 8, .context = 1024, .steps_in_flight = 1, .vocabulary = 100};

class BatchPlannerTest : public ::testing::Test {
 protected:
  void start(EngineLimits limits, BatchPlannerOptions options = {.rows_per_step = 64, .sequences_max = 16}) {
    options.prefix_cache = false;  // prefix_planner_test.cpp has it on.
    batch_planner_ = std::make_unique<BatchPlanner>(options);
    batch_planner_->reset(limits);
  }
  SeqId add(int prompt, int max_tokens = 100) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = SeqId{next_++};
    sequence->request.prompt.resize(static_cast<size_t>(prompt));
    std::iota(sequence->request.prompt.begin(), sequence->request.prompt.end(), 0);
    sequence->request.max_tokens = max_tokens;
    sequence->tokens = sequence->request.prompt;
    const SeqId id = sequence->id;
    batch_planner_->enqueue(std::move(sequence));
    return id;
  }
  std::optional<Step> compose() {
    auto step = batch_planner_->compose(StepId{step_});
    if (step.has_value()) {
      ++step_;
      pending_.push_back(*step);
    }
    return step;
  }
  /// The oldest step in flight comes back with token 7 for each sequence it samples.
  void acknowledge() {
    StepResult result{.id = pending_.front().id};
    for (const SeqSlice& slice : pending_.front().slices) {
      if (slice.sample_from != kNoSample) result.sequences.push_back({slice.id, {{7}}});
    }
    pending_.erase(pending_.begin());
    ASSERT_TRUE(batch_planner_->acknowledge(result).ok());
    ASSERT_TRUE(batch_planner_->verify().ok());
  }

  std::unique_ptr<BatchPlanner> batch_planner_;
  std::vector<Step> pending_;
  uint64_t next_ = 1;
  uint64_t step_ = 1;
};

TEST_F(BatchPlannerTest, AStateIsWrittenToASlotThatNoStepInFlightNames) {
  EngineLimits limits = kLimits;
  limits.blocks = 32;
  limits.steps_in_flight = 3;
  limits.state_slots = 8;
  start(limits, {.rows_per_step = 32, .sequences_max = 16});
  add(300, 5);
  add(100, 5);
  std::map<SeqId, SlotId> latest;
  for (int turn = 0; turn < 40; ++turn) {
    while (pending_.size() < 3 && compose().has_value()) {
      const Step& step = pending_.back();
      for (const SeqSlice& slice : step.slices) {
        ASSERT_THAT(slice.state_to, SizeIs(1));
        EXPECT_EQ(slice.state_to[0].position, slice.position + std::ssize(slice.tokens));
        EXPECT_EQ(slice.state_from, slice.position == 0 ? kNoState : latest.at(slice.id));
        latest[slice.id] = slice.state_to[0].slot;
        for (size_t i = 0; i + 1 < pending_.size(); ++i) {
          for (const SeqSlice& other : pending_[i].slices) {
            EXPECT_NE(slice.state_to[0].slot, other.state_from);
            EXPECT_NE(slice.state_to[0].slot, other.state_to[0].slot);
          }
        }
      }
    }
    if (pending_.empty()) break;
    acknowledge();
    for (const SeqId id : batch_planner_->live_ids()) {
      if (batch_planner_->find(id)->generated() == 5) batch_planner_->end(id);
    }
  }
  EXPECT_TRUE(batch_planner_->live_ids().empty());
  EXPECT_TRUE(batch_planner_->verify().ok());
}

TEST_F(BatchPlannerTest, ASequenceWaitsForSlotsThatOthersHold) {
  EngineLimits limits = kLimits;
  limits.state_slots = 8;  // Of which each takes three.
  start(limits);
  const SeqId first = add(3);
  add(3);
  const SeqId third = add(3);
  ASSERT_TRUE(compose().has_value());
  EXPECT_THAT(pending_.back().slices, SizeIs(2));
  EXPECT_EQ(batch_planner_->find(third)->state, SequenceState::kWaiting);
  batch_planner_->end(first);  // A step in flight names its slots.
  EXPECT_FALSE(compose().has_value());
  acknowledge();
  ASSERT_TRUE(compose().has_value());
  EXPECT_EQ(batch_planner_->find(third)->state, SequenceState::kRunning);
}

TEST_F(BatchPlannerTest, CutsALongPromptIntoChunksOfTheBudget) {
  start(kLimits);
  add(150);
  std::vector<int64_t> positions, rows;
  std::vector<bool> samples;
  for (int i = 0; i < 3; ++i) {
    const auto step = compose();
    ASSERT_TRUE(step.has_value());
    ASSERT_THAT(step->slices, SizeIs(1));
    EXPECT_EQ(step->begins.size(), i == 0 ? 1u : 0u);
    positions.push_back(step->slices[0].position);
    rows.push_back(step->rows());
    samples.push_back(step->slices[0].sample_from != kNoSample);
    EXPECT_EQ(step->slices[0].tokens[0], positions.back());
    acknowledge();
  }
  EXPECT_EQ(positions, (std::vector<int64_t>{0, 64, 128}));
  EXPECT_EQ(rows, (std::vector<int64_t>{64, 64, 22}));
  EXPECT_EQ(samples, (std::vector<bool>{false, false, true}));
}

TEST_F(BatchPlannerTest, DecodesGoFirstAndPrefillFillsTheRest) {
  start(kLimits);
  const SeqId first = add(10);
  compose();
  acknowledge();
  const SeqId second = add(100);
  const auto step = compose();
  ASSERT_THAT(step->slices, SizeIs(2));
  EXPECT_EQ(step->slices[0].id, first);
  EXPECT_EQ(step->slices[0].tokens, std::vector<int32_t>{7});
  EXPECT_EQ(step->slices[1].id, second);
  EXPECT_EQ(step->slices[1].tokens.size(), 63u);
}

TEST_F(BatchPlannerTest, AdmitsNoMoreSequencesThanAStepHasRows) {
  start(kLimits, {.rows_per_step = 2, .sequences_max = 16});
  for (int i = 0; i < 4; ++i) add(1);
  EXPECT_THAT(compose()->slices, SizeIs(2));
  EXPECT_EQ(batch_planner_->running(), 2);
}

TEST_F(BatchPlannerTest, SplitsDecodesEvenlyAmongTheStepsInFlight) {
  EngineLimits limits = kLimits;
  limits.steps_in_flight = 2;
  limits.blocks = 16;
  start(limits);
  for (int i = 0; i < 5; ++i) add(1);
  EXPECT_THAT(compose()->slices, SizeIs(3));
  EXPECT_THAT(compose()->slices, SizeIs(2));
  EXPECT_FALSE(compose().has_value());  // Every token is pending.
  acknowledge();
  EXPECT_THAT(compose()->slices, SizeIs(3));
}

TEST_F(BatchPlannerTest, PrefillChunksOfOneSequenceFollowEachOtherInFlight) {
  EngineLimits limits = kLimits;
  limits.steps_in_flight = 3;
  start(limits);
  add(100);
  EXPECT_EQ(compose()->slices[0].position, 0);
  EXPECT_EQ(compose()->slices[0].position, 64);
  EXPECT_FALSE(compose().has_value());
}

TEST_F(BatchPlannerTest, APipelineGetsAPromptInChunksThatKeepAllItsStagesAtWork) {
  start({.blocks = 64, .context = 2048, .steps_in_flight = 2, .vocabulary = 100},
        {.rows_per_step = 256, .sequences_max = 16});
  add(1800);
  std::vector<int64_t> rows;
  while (rows.empty() || pending_.back().slices[0].sample_from == kNoSample) {
    ASSERT_TRUE(compose().has_value());
    rows.push_back(pending_.back().rows());
    if (pending_.size() == 2) acknowledge();
  }
  EXPECT_EQ(rows[0], 200);
  EXPECT_TRUE(std::ranges::is_sorted(rows, std::greater<>{}));
  EXPECT_THAT(rows, SizeIs(testing::Ge(10u)));
  for (size_t i = 0; i + 1 < rows.size(); ++i) EXPECT_GE(rows[i], 64);
  EXPECT_EQ(std::accumulate(rows.begin(), rows.end(), int64_t{0}), 1800);
}

TEST_F(BatchPlannerTest, TheYoungestGivesItsBlocksBackWhenTheyRunOut) {
  start({.blocks = 4, .context = 1024, .steps_in_flight = 1, .vocabulary = 100});
  const SeqId old = add(32);
  const SeqId young = add(32);
  for (int i = 0; i < 33; ++i) {  // One prefill, then 32 decodes each: both sit on 2 full blocks.
    ASSERT_THAT(compose()->slices, SizeIs(2));
    acknowledge();
  }
  EXPECT_EQ(batch_planner_->caches().pool().free_count(), 0);
  const auto step = compose();
  ASSERT_THAT(step->slices, SizeIs(1));
  EXPECT_EQ(step->slices[0].id, old);
  EXPECT_EQ(batch_planner_->find(young)->state, SequenceState::kWaiting);
  EXPECT_EQ(batch_planner_->preemptions(), 1);
  EXPECT_TRUE(step->ends.empty());
  acknowledge();
  batch_planner_->end(old);
  const auto again = compose();
  ASSERT_THAT(again->begins, SizeIs(1));  // Begins again from all its tokens: prompt and generated.
  EXPECT_EQ(again->begins[0].id, young);
  EXPECT_EQ(again->begins[0].tokens.size(), 65u);
  EXPECT_EQ(again->begins[0].prompt_tokens, 32);
  EXPECT_EQ(again->slices[0].position, 0);
  EXPECT_EQ(again->ends, std::vector<SeqId>{old});
}

TEST_F(BatchPlannerTest, ASequenceThatOutgrowsShortRopeIsPrefilledAgainAndItsNeighbourIsLeftAlone) {
  EngineLimits limits = kLimits;
  limits.short_rope_positions = 65;
  start(limits);
  const SeqId grows = add(64);
  const SeqId neighbour = add(3);
  compose();  // The prompt of the first fills the step.
  acknowledge();
  auto step = compose();
  ASSERT_THAT(step->slices, SizeIs(2));
  EXPECT_EQ(step->slices[0].position, 64);  // Feeds its 65th token, the last that short rope reaches.
  EXPECT_FALSE(step->slices[0].long_rope);
  acknowledge();
  std::vector<int64_t> rows;
  for (int i = 0; i < 2; ++i) {
    step = compose();
    ASSERT_THAT(step->slices, SizeIs(2));
    EXPECT_EQ(step->slices[0].id, neighbour);
    EXPECT_EQ(step->slices[0].position, 3 + i);
    EXPECT_FALSE(step->slices[0].long_rope);
    const SeqSlice& again = step->slices[1];
    EXPECT_EQ(again.id, grows);
    EXPECT_EQ(again.position, i == 0 ? 0 : 63);
    EXPECT_TRUE(again.long_rope);
    EXPECT_EQ(again.sample_from != kNoSample, i == 1);
    rows.push_back(static_cast<int64_t>(again.tokens.size()));
    ASSERT_THAT(step->begins, SizeIs(i == 0 ? 1 : 0));
    for (const NewSequence& begin : step->begins) EXPECT_EQ(begin.tokens.size(), 66u);
    acknowledge();
  }
  EXPECT_EQ(rows, (std::vector<int64_t>{63, 3}));
  EXPECT_EQ(batch_planner_->preemptions(), 0);
  step = compose();
  EXPECT_EQ(step->slices[0].position + step->slices[1].position, 5 + 66);  // Both decode.
}

TEST_F(BatchPlannerTest, APromptBeyondShortRopeIsLongFromItsFirstChunk) {
  EngineLimits limits = kLimits;
  limits.short_rope_positions = 99;
  start(limits);
  add(100);
  for (int i = 0; i < 3; ++i) {  // Two chunks and a decode.
    const auto step = compose();
    EXPECT_TRUE(step->slices[0].long_rope);
    EXPECT_EQ(step->slices[0].position, i == 0 ? 0 : i == 1 ? 64 : 100);
    acknowledge();
  }
}

TEST_F(BatchPlannerTest, AnEndedSequenceKeepsItsBlocksUntilItsLastStepIsBack) {
  EngineLimits limits = kLimits;
  limits.steps_in_flight = 2;
  start(limits);
  const SeqId id = add(100);
  compose();
  compose();
  batch_planner_->end(id);
  EXPECT_EQ(batch_planner_->find(id), nullptr);
  EXPECT_EQ(batch_planner_->running(), 0);
  EXPECT_EQ(batch_planner_->caches().pool().used_count(), 4);
  acknowledge();
  EXPECT_EQ(batch_planner_->caches().pool().used_count(), 4);
  acknowledge();
  EXPECT_EQ(batch_planner_->caches().pool().used_count(), 0);
}

TEST_F(BatchPlannerTest, APreemptedSequenceInFlightKeepsItsTokenAndItsBlocksUntilThen) {
  start({.blocks = 3, .context = 1024, .steps_in_flight = 2, .vocabulary = 100});
  const SeqId old = add(31);
  const SeqId young = add(32);
  compose();  // Both prompts: two blocks.
  acknowledge();
  EXPECT_EQ(compose()->slices[0].id, old);    // Its position 31 is in its first block.
  EXPECT_EQ(compose()->slices[0].id, young);  // Takes the third block.
  acknowledge();
  EXPECT_FALSE(
      compose().has_value());  // The old one wants a block of the young one, which a step in flight names.
  EXPECT_EQ(batch_planner_->find(young)->state, SequenceState::kDraining);
  EXPECT_EQ(batch_planner_->caches().pool().free_count(), 0);
  acknowledge();
  EXPECT_EQ(batch_planner_->find(young)->state, SequenceState::kWaiting);
  EXPECT_EQ(batch_planner_->find(young)->tokens.size(), 34u);
  const auto step = compose();
  ASSERT_THAT(step->slices, SizeIs(1));
  EXPECT_EQ(step->slices[0].id, old);
  EXPECT_EQ(step->slices[0].position, 32);
}

TEST_F(BatchPlannerTest, RefusesAResultThatDoesNotMatchItsStep) {
  start(kLimits);
  const SeqId id = add(3);
  const auto expect_refused = [&](StepResult result, const std::string& why) {
    const auto refused = batch_planner_->acknowledge(result);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(Message(refused.status()), HasSubstr(why));
  };
  compose();
  expect_refused({.id = StepId{9}, .sequences = {{id, {{1}}}}}, "step 9");
  expect_refused({.id = StepId{1}}, "expected tokens for 1");
  expect_refused({.id = StepId{1}, .sequences = {{id, {{1}, {2}}}}}, "2 tokens");
  expect_refused({.id = StepId{1}, .sequences = {{SeqId{77}, {{1}}}}}, "sequence 77");
  expect_refused({.id = StepId{1}, .sequences = {{id, {{100}}}}}, "vocabulary of 100");
  acknowledge();
}

TEST_F(BatchPlannerTest, RefusesAResultThatNamesOneSequenceForAnother) {
  start(kLimits);
  const SeqId first = add(3);
  add(3);
  compose();
  const auto refused =
      batch_planner_->acknowledge({.id = StepId{1}, .sequences = {{first, {{1}}}, {first, {{2}}}}});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInternal);
  acknowledge();
}

TEST_F(BatchPlannerTest, FailingTheStartedLeavesTheQueue) {
  start(kLimits, {.rows_per_step = 64, .sequences_max = 1});
  const SeqId started = add(3);
  const SeqId queued = add(3);
  compose();
  const auto failed = batch_planner_->lose_generation({.resume = false});
  ASSERT_THAT(failed, SizeIs(1));
  EXPECT_EQ(failed[0]->id, started);
  EXPECT_EQ(batch_planner_->waiting_ids(), std::vector<SeqId>{queued});
  EXPECT_EQ(batch_planner_->caches().pool().used_count(), 0);
  EXPECT_TRUE(batch_planner_->verify().ok());
  batch_planner_->reset(kLimits);
  pending_.clear();
  EXPECT_EQ(compose()->slices[0].id, queued);
}

TEST_F(BatchPlannerTest, WhatIsKeptOverALossBeginsAgainFromItsTokensAheadOfTheQueue) {
  start(kLimits, {.rows_per_step = 64, .sequences_max = 2});
  const SeqId running = add(3);
  const SeqId ended = add(3);
  const SeqId queued = add(3);
  for (int i = 0; i < 3; ++i) {
    compose();
    acknowledge();
  }
  compose();  // Its token is lost.
  batch_planner_->end(ended);
  EXPECT_THAT(batch_planner_->lose_generation({.resume = true}), SizeIs(0));
  EXPECT_EQ(batch_planner_->waiting_ids(), (std::vector<SeqId>{running, queued}));
  EXPECT_EQ(batch_planner_->queued(), 1);
  EXPECT_EQ(batch_planner_->restarts(), 1);
  EXPECT_EQ(batch_planner_->running() + batch_planner_->steps_in_flight(), 0);
  EXPECT_TRUE(batch_planner_->verify().ok());
  batch_planner_->reset({.blocks = 4, .context = 1024, .steps_in_flight = 1, .vocabulary = 100});
  pending_.clear();
  const auto step = compose();
  ASSERT_THAT(step->begins, SizeIs(2));
  EXPECT_EQ(step->begins[0].id, running);
  EXPECT_EQ(step->begins[0].tokens, (std::vector<int32_t>{0, 1, 2, 7, 7, 7}));
  EXPECT_EQ(step->begins[0].prompt_tokens, 3);
  EXPECT_EQ(step->slices[0].position, 0);
  EXPECT_TRUE(step->ends.empty());  // The workers of a new generation know nobody.
  acknowledge();
  EXPECT_EQ(batch_planner_->find(running)->tokens.size(), 7u);
}

TEST_F(BatchPlannerTest, ASequenceInTheFailingStepOfEveryGenerationIsGivenUp) {
  EngineLimits limits = kLimits;
  limits.steps_in_flight = 2;
  start(limits, {.rows_per_step = 4, .sequences_max = 4});
  const SeqId culprit = add(4);
  const SeqId bystander = add(4);
  const LossPolicy policy{.resume = true, .losses_in_a_row_max = 3};
  for (int loss = 1; loss <= 3; ++loss) {
    EXPECT_EQ(compose()->slices[0].id, culprit);
    EXPECT_EQ(compose()->slices[0].id, bystander);
    const auto removed = batch_planner_->lose_generation(policy);
    ASSERT_EQ(removed.size(), loss == 3 ? 1u : 0u);
    if (loss == 3) {
      EXPECT_EQ(removed[0]->id, culprit);
    }
    batch_planner_->reset(limits);
    pending_.clear();
  }
  EXPECT_EQ(batch_planner_->waiting_ids(), std::vector<SeqId>{bystander});
  for (size_t tokens = 5; tokens < 10; ++tokens) {  // Losses with a token between are no reason.
    while (batch_planner_->find(bystander)->tokens.size() < tokens) {
      ASSERT_TRUE(compose().has_value());
      acknowledge();
    }
    compose();
    EXPECT_THAT(batch_planner_->lose_generation(policy), SizeIs(0));
    batch_planner_->reset(limits);
    pending_.clear();
  }
}

TEST(CheckFits, SaysWhichLimitAndByHowMuch) {
  GenerationRequest request{.prompt = std::vector<int32_t>(100), .max_tokens = 50};
  EXPECT_TRUE(CheckFits(request, {.blocks = 5, .context = 150, .vocabulary = 1}).ok());
  const std::string context = Message(CheckFits(request, {.blocks = 5, .context = 149, .vocabulary = 1}));
  EXPECT_THAT(context, HasSubstr("100 tokens"));
  EXPECT_THAT(context, HasSubstr("149"));
  const std::string cache = Message(CheckFits(request, {.blocks = 4, .context = 150, .vocabulary = 1}));
  EXPECT_THAT(cache, HasSubstr("5 blocks"));
  EXPECT_THAT(cache, HasSubstr("has 4"));
  request.max_tokens = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(Message(CheckFits(request, {.blocks = 5, .context = 150, .vocabulary = 1})),
              HasSubstr("context is 150"));
}

TEST(CheckFits, NamesAnIdThatTheModelDoesNotKnow) {
  const EngineLimits limits{.blocks = 5, .context = 150, .vocabulary = 101};
  GenerationRequest request{.prompt = {3, 100, 0}, .max_tokens = 5};
  EXPECT_TRUE(CheckFits(request, limits).ok());
  for (const int32_t id : {101, -1, std::numeric_limits<int32_t>::max()}) {
    request.prompt[1] = id;
    const absl::Status refused = CheckFits(request, limits);
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(refused), HasSubstr(fmt::format("token 1 of the prompt has the id {}", id)));
    EXPECT_THAT(Message(refused), HasSubstr("vocabulary has 101 ids"));
  }
  request.prompt[1] = 100;
  request.sampling.logit_bias = {{101, 1.0f}};
  EXPECT_THAT(Message(CheckFits(request, limits)), HasSubstr("logit_bias names the id 101"));
}

TEST(CheckFits, AgreesWithPositionsMax) {
  for (const EngineLimits& limits : {EngineLimits{.blocks = 3, .context = 1000, .vocabulary = 1},
                                     {.blocks = 100, .context = 70, .vocabulary = 1}}) {
    GenerationRequest request{.prompt = std::vector<int32_t>(10)};
    request.max_tokens = PositionsMax(limits) - 10;
    EXPECT_TRUE(CheckFits(request, limits).ok());
    ++request.max_tokens;
    EXPECT_FALSE(CheckFits(request, limits).ok());
  }
}

TEST(CheckLimits, WantsStatesForOneSequenceAtLeast) {
  EXPECT_TRUE(CheckLimits({.steps_in_flight = 3}).ok());
  EXPECT_TRUE(CheckLimits({.steps_in_flight = 3, .state_slots = 4}).ok());
  EXPECT_FALSE(CheckLimits({.steps_in_flight = 3, .state_slots = 3}).ok());
  EXPECT_FALSE(CheckLimits({.steps_in_flight = 0}).ok());
}

}  // namespace
}  // namespace shoal
