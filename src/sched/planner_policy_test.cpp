// Whom the batch planner serves first, and how much of a step prompts get.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/status.h"
#include "sched/batch_planner.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

constexpr EngineLimits kLimits{.blocks = 1024, .context = 32768, .steps_in_flight = 1, .vocabulary = 100};

struct Asked {
  int64_t prompt = 4;
  int64_t max_tokens = 1;
  std::string party;
  int priority = 0;
};

class PlannerPolicyTest : public ::testing::Test {
 protected:
  void start(BatchPlannerOptions options, EngineLimits limits = kLimits) {
    options.prefix_cache = false;
    planner_ = std::make_unique<BatchPlanner>(options);
    planner_->reset(limits);
  }
  SeqId add(const Asked& asked) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = SeqId{next_++};
    sequence->request.prompt.resize(static_cast<size_t>(asked.prompt));
    sequence->request.max_tokens = asked.max_tokens;
    sequence->request.party = asked.party;
    sequence->request.priority = asked.priority;
    sequence->tokens = sequence->request.prompt;
    const SeqId id = sequence->id;
    planner_->enqueue(std::move(sequence));
    return id;
  }
  /// One step, there and back, that takes `cost_ms_`; what has all its tokens ends. False if there was none.
  bool step() {
    std::optional<Step> step = planner_->compose(StepId{step_});
    if (!step.has_value()) return false;
    ++step_;
    StepResult result{.id = step->id};
    for (const SeqSlice& slice : step->slices) {
      if (slice.sample_from != kNoSample) result.sequences.push_back({slice.id, {{7}}});
    }
    const double ms = cost_ms_ ? cost_ms_(*step) : 0;
    result.timings = {{.node = NodeId{0}, .busy_ns = static_cast<int64_t>(ms * 1e6)}};
    last_ = *std::move(step);
    EXPECT_TRUE(planner_->acknowledge(result).ok());
    for (const SeqResult& one : result.sequences) {
      const Sequence* sequence = planner_->find(one.id);
      if (sequence->generated() < sequence->request.max_tokens) continue;
      planner_->end(one.id);
      ended_.push_back(one.id.value);
    }
    const absl::Status sound = planner_->verify();
    EXPECT_TRUE(sound.ok()) << ToString(sound);
    return true;
  }
  void run() {
    while (step()) {
    }
  }
  int64_t rows_of(SeqId id) const {
    const auto slice = std::ranges::find(last_.slices, id, &SeqSlice::id);
    return slice == last_.slices.end() ? 0 : std::ssize(slice->tokens);
  }

  std::unique_ptr<BatchPlanner> planner_;
  std::function<double(const Step&)> cost_ms_;
  Step last_;
  std::vector<uint64_t> ended_;
  uint64_t next_ = 1;
  uint64_t step_ = 1;
};

TEST_F(PlannerPolicyTest, ALowerPriorityNumberIsAdmittedFirst) {
  start({.sequences_max = 1});
  for (const int priority : {0, 5, -5, 0, -100, 100}) add({.priority = priority});
  run();
  EXPECT_THAT(ended_, ElementsAre(5, 3, 1, 4, 2, 6));
}

TEST_F(PlannerPolicyTest, AWorsePriorityIsPreemptedFirstHoweverOld) {
  start({.rows_per_step = 64, .sequences_max = 16},
        {.blocks = 4, .context = 1024, .steps_in_flight = 1, .vocabulary = 100});
  const SeqId old = add({.prompt = 32, .max_tokens = 60, .priority = 1});
  const SeqId young = add({.prompt = 32, .max_tokens = 60, .priority = 0});
  while (planner_->preemptions() == 0) ASSERT_TRUE(step());
  EXPECT_EQ(planner_->find(old)->state, SequenceState::kWaiting);
  EXPECT_EQ(planner_->find(young)->state, SequenceState::kRunning);
  run();
  EXPECT_THAT(ended_, ElementsAre(young.value, old.value));
}

TEST_F(PlannerPolicyTest, APreemptedSequenceIsAheadOfFreshOnesOfItsPriorityAndBehindBetterOnes) {
  start({.rows_per_step = 64, .sequences_max = 16},
        {.blocks = 4, .context = 1024, .steps_in_flight = 1, .vocabulary = 100});
  add({.prompt = 32, .max_tokens = 60, .party = "flood"});
  const SeqId preempted = add({.prompt = 32, .max_tokens = 60, .party = "flood"});
  while (planner_->preemptions() == 0) ASSERT_TRUE(step());
  const SeqId fresh = add({.party = "other"});
  const SeqId better = add({.party = "other", .priority = -1});
  EXPECT_THAT(planner_->waiting_ids(), ElementsAre(better, preempted, fresh));
  run();
}

TEST_F(PlannerPolicyTest, APartyThatFloodsLetsAnotherIn) {
  start({.sequences_max = 1});
  for (int i = 0; i < 50; ++i) add({.prompt = 40, .max_tokens = 3, .party = "flood"});
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(step());  // Four answers.
  const SeqId other = add({.prompt = 40, .max_tokens = 3, .party = "other"});
  run();
  const auto place = std::ranges::find(ended_, other.value) - ended_.begin();
  EXPECT_LE(place, 6);
  EXPECT_THAT(ended_, SizeIs(51));
}

TEST_F(PlannerPolicyTest, PromptsOfTwoPartiesShareAStep) {
  start({.rows_per_step = 100, .sequences_max = 8});
  const SeqId first = add({.prompt = 1000, .party = "flood"});
  const SeqId second = add({.prompt = 1000, .party = "flood"});
  const SeqId other = add({.prompt = 120, .party = "other"});
  step();
  EXPECT_EQ(rows_of(first), 50);
  EXPECT_EQ(rows_of(second), 0);
  EXPECT_EQ(rows_of(other), 50);
  step();
  step();
  EXPECT_EQ(rows_of(first), 80);
  EXPECT_EQ(rows_of(other), 20);
}

TEST_F(PlannerPolicyTest, APromptOfABetterPriorityGetsTheStep) {
  start({.rows_per_step = 100, .sequences_max = 8});
  const SeqId worse = add({.prompt = 1000, .priority = 1});
  step();
  EXPECT_EQ(rows_of(worse), 100);
  const SeqId better = add({.prompt = 130});
  step();
  EXPECT_EQ(rows_of(worse), 0);
  EXPECT_EQ(rows_of(better), 100);
  step();
  EXPECT_EQ(rows_of(worse), 70);
}

TEST_F(PlannerPolicyTest, WhatIsComputedAgainAfterAPreemptionIsNotCharged) {
  // Two parties with equal requests, of which one is preempted: then both go on in turns.
  start({.rows_per_step = 64, .sequences_max = 2},
        {.blocks = 4, .context = 1024, .steps_in_flight = 1, .vocabulary = 100});
  add({.prompt = 32, .max_tokens = 40, .party = "a"});
  add({.prompt = 32, .max_tokens = 40, .party = "b"});
  for (int i = 0; i < 2; ++i) {
    add({.prompt = 10, .party = "a"});
    add({.prompt = 10, .party = "b"});
  }
  run();
  EXPECT_GE(planner_->preemptions(), 1);
  EXPECT_THAT(ended_, ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST_F(PlannerPolicyTest, APromptThatComesWhileStreamsDecodeKeepsToTheTarget) {
  // 10 ms, 1 ms a row, and 20 us for each 1,000 positions that a row attends to.
  cost_ms_ = [](const Step& step) {
    double ms = 10;
    for (const SeqSlice& slice : step.slices) {
      const auto rows = static_cast<double>(slice.tokens.size());
      ms += rows * (1 + 2e-5 * static_cast<double>(slice.position));
    }
    return ms;
  };
  start({.rows_per_step = 256, .sequences_max = 16, .target_itl = std::chrono::milliseconds(50)});
  for (int i = 0; i < 3; ++i) add({.prompt = 20, .max_tokens = 4000});
  for (int i = 0; i < 50; ++i) step();
  const SeqId prompt = add({.prompt = 16000, .max_tokens = 1});
  int steps = 0;
  int late = 0;
  double rows_ms = 0;
  while (planner_->find(prompt) != nullptr) {
    ASSERT_TRUE(step());
    ++steps;
    const double ms = cost_ms_(last_);
    late += ms > 75 ? 1 : 0;
    rows_ms += ms;
    EXPECT_EQ(last_.slices.size(), planner_->find(prompt) == nullptr || rows_of(prompt) > 0 ? 4u : 3u);
  }
  EXPECT_LE(100 * late, steps);
  EXPECT_GT(rows_ms / steps, 40);
  EXPECT_LT(steps, 700);  // 16 rows a step would take 1,000.
}

TEST_F(PlannerPolicyTest, WithoutStreamsAPromptGetsAllRowsWhateverTheTarget) {
  cost_ms_ = [](const Step& step) { return 10.0 * static_cast<double>(step.rows()); };
  start({.rows_per_step = 256, .sequences_max = 16, .target_itl = std::chrono::milliseconds(1)});
  const SeqId prompt = add({.prompt = 600});
  std::vector<int64_t> rows;
  while (planner_->find(prompt) != nullptr) {
    ASSERT_TRUE(step());
    rows.push_back(last_.rows());
  }
  EXPECT_THAT(rows, ElementsAre(256, 256, 88));
}

}  // namespace
}  // namespace shoal
