// Requests of several choices: what each of them gives, and how they begin, end and fail together.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "base/status.h"
#include "sched/scheduler.h"
#include "sched/testing/fake_engine.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr EngineLimits kLimits{.blocks = 64, .context = 2048, .steps_in_flight = 2, .vocabulary = 101};

/// A pseudo-model that samples by seed, choice and position.
int32_t Next(std::span<const int32_t> tokens, int32_t /*prompt_tokens*/, const SamplingParams& sampling) {
  return static_cast<int32_t>(
      (RandomBits(sampling.seed, sampling.choice, tokens.size()) ^ static_cast<uint64_t>(tokens.back())) %
      101);
}

std::vector<GenerationRequest> Choices(int count, int64_t max_tokens,
                                       std::vector<int32_t> prompt = {1, 2, 3}) {
  std::vector<GenerationRequest> choices;
  for (int i = 0; i < count; ++i) {
    choices.push_back({.prompt = prompt, .max_tokens = max_tokens, .deadline = Deadline::after_ms(60'000)});
    choices.back().sampling.seed = 7;
    choices.back().sampling.choice = static_cast<uint32_t>(i);
  }
  return choices;
}

bool Idle(const Scheduler& scheduler) {
  const Deadline deadline = Deadline::after_ms(30'000);
  while (!deadline.expired()) {
    const SchedulerStats stats = scheduler.stats();
    if (stats.waiting + stats.running + stats.steps_in_flight + stats.blocks_used == 0) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

TEST(Choices, EachGetsTheTokensThatItGetsAlone) {
  for (const int blocks : {64, 6}) {
    EngineLimits limits = kLimits;
    limits.blocks = blocks;
    FakeEngine engine({.limits = limits}, Next);
    Scheduler scheduler(engine, {});
    auto sink = std::make_shared<RecordingSink>();
    const auto choices = Choices(5, 40);
    ASSERT_TRUE(scheduler.submit(choices, sink).ok());
    ASSERT_TRUE(sink->wait_end(5));
    for (int i = 0; i < 5; ++i) {
      EXPECT_TRUE(sink->begun(i));
      EXPECT_EQ(sink->tokens(i),
                ExpectedTokens(Next, {1, 2, 3}, 40, choices[static_cast<size_t>(i)].sampling));
      EXPECT_EQ(sink->reason(i), FinishReason::kLength);
    }
    EXPECT_NE(sink->tokens(0), sink->tokens(1));
    EXPECT_FALSE(sink->late());
    EXPECT_TRUE(Idle(scheduler));
    EXPECT_THAT(engine.violations(), IsEmpty());
  }
}

TEST(Choices, OneEndsAndTheOthersGoOn) {
  FakeEngine engine({.limits = kLimits}, Next);
  Scheduler scheduler(engine, {});
  auto choices = Choices(3, 30);
  choices[1].max_tokens = 2;
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(choices, sink).ok());
  ASSERT_TRUE(sink->wait_end(3));
  EXPECT_EQ(sink->tokens(0).size(), 30u);
  EXPECT_EQ(sink->tokens(1).size(), 2u);
  EXPECT_EQ(sink->tokens(2).size(), 30u);
}

TEST(Choices, AStepThatBringsTokensForSeveralOfThemEndsOnce) {
  FakeEngine engine({.limits = {.blocks = 64, .context = 2048, .steps_in_flight = 1, .vocabulary = 101}},
                    Next);
  Scheduler scheduler(engine, {});
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Choices(8, 10), sink).ok());
  ASSERT_TRUE(sink->wait_end(8));
  ASSERT_TRUE(Idle(scheduler));
  scheduler.stop();  // The last on_step_end() comes after the numbers that Idle() sees.
  EXPECT_EQ(sink->step_ends(), engine.steps());
  EXPECT_LT(engine.steps(), 8 * 10);
}

TEST(Choices, CancellingTheRequestEndsThemAll) {
  FakeEngine engine({.limits = kLimits}, Next);
  Scheduler scheduler(engine, {.batch = {.rows_per_step = 64, .sequences_max = 2}});
  auto sink = std::make_shared<RecordingSink>();
  const auto id = scheduler.submit(Choices(4, 600), sink);  // Two run, two wait.
  ASSERT_TRUE(id.ok());
  ASSERT_TRUE(sink->wait_tokens(3));
  scheduler.cancel(*id);
  ASSERT_TRUE(sink->wait_end(4));
  EXPECT_EQ(sink->error().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Idle(scheduler));
  EXPECT_FALSE(sink->late());
  EXPECT_THAT(engine.violations(), IsEmpty());
}

TEST(Choices, WhatIsWrongWithOneEndsItsRequestAndNoOther) {
  FakeEngine engine({.limits = kLimits}, Next);
  std::atomic<uint64_t> victim = 0;
  engine.set_tamper([&](StepResult& result) {
    for (SeqResult& one : result.sequences) {
      if (one.id.value == victim) one = {.id = one.id, .status = OutOfRange("NaN")};
    }
  });
  Scheduler scheduler(engine, {});
  auto other = std::make_shared<RecordingSink>();
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Choices(1, 200), other).ok());  // Sequence 1.
  ASSERT_TRUE(scheduler.submit(Choices(4, 1000), sink).ok());  // Sequences 2 to 5.
  ASSERT_TRUE(sink->wait_tokens(5));
  victim = 3;
  ASSERT_TRUE(sink->wait_end(4));
  EXPECT_THAT(Message(sink->error()), HasSubstr("NaN"));
  ASSERT_TRUE(other->wait_end());
  EXPECT_EQ(other->tokens().size(), 200u);
  EXPECT_FALSE(sink->late());
  EXPECT_TRUE(Idle(scheduler));
  EXPECT_THAT(engine.violations(), IsEmpty());
}

TEST(Choices, OneThatCanNeverFitRefusesTheRequest) {
  FakeEngine engine({.limits = kLimits}, Next);
  Scheduler scheduler(engine, {});
  auto choices = Choices(3, 10);
  choices[2].prompt.assign(3000, 1);
  EXPECT_EQ(scheduler.submit(choices, std::make_shared<RecordingSink>()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      scheduler.submit(std::vector<GenerationRequest>(), std::make_shared<RecordingSink>()).status().code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Idle(scheduler));
  FakeEngine late({.limits = kLimits, .up = false}, Next);
  Scheduler waiting(late, {});
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(waiting.submit(choices, sink).ok());
  late.recover(kLimits);
  ASSERT_TRUE(sink->wait_end(3));
  EXPECT_EQ(sink->error().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(sink->late());
  EXPECT_TRUE(Idle(waiting));
}

TEST(Choices, ALostEngineIsWaitedForByAllOrEndsAll) {
  for (const OnLoss on_loss : {OnLoss::kFail, OnLoss::kResume}) {
    FakeEngine engine({.limits = kLimits}, Next);
    Scheduler scheduler(engine, {.batch = {.rows_per_step = 64, .sequences_max = 3}, .on_loss = on_loss});
    auto sink = std::make_shared<RecordingSink>();
    const auto choices = Choices(4, 400);
    ASSERT_TRUE(scheduler.submit(choices, sink).ok());
    ASSERT_TRUE(sink->wait_tokens(5));
    engine.lose(Unavailable("node 'b' is lost"));
    engine.recover(kLimits);
    ASSERT_TRUE(sink->wait_end(4));
    EXPECT_EQ(sink->error().ok(), on_loss == OnLoss::kResume);
    for (int i = 0; i < 4 && on_loss == OnLoss::kResume; ++i) {
      EXPECT_EQ(sink->tokens(i),
                ExpectedTokens(Next, {1, 2, 3}, 400, choices[static_cast<size_t>(i)].sampling));
    }
    EXPECT_FALSE(sink->late());
    EXPECT_TRUE(Idle(scheduler));
    EXPECT_THAT(engine.violations(), IsEmpty());
  }
}

TEST(Choices, LogProbabilitiesComeWithTheTokens) {
  FakeEngine engine({.limits = kLimits}, Next);
  Scheduler scheduler(engine, {});
  auto choices = Choices(2, 5);
  choices[1].sampling.top_logprobs = 3;
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(choices, sink).ok());
  ASSERT_TRUE(sink->wait_end(2));
  ASSERT_EQ(sink->sampled(1).size(), 5u);
  for (const SampledToken& one : sink->sampled(0)) EXPECT_EQ(one, SampledToken{.id = one.id});
  for (const SampledToken& one : sink->sampled(1)) EXPECT_EQ(one, WithLogprobs(one.id, 3));
}

/// As Next, but an id with a bias of -infinity is never drawn, and id 5 is the likeliest by far.
int32_t Eager(std::span<const int32_t> tokens, int32_t /*prompt_tokens*/, const SamplingParams& sampling) {
  const auto forbidden = [&](int32_t id) {
    return std::ranges::any_of(sampling.logit_bias,
                               [&](const auto& bias) { return bias.first == id && bias.second < -1e9f; });
  };
  return forbidden(5) ? static_cast<int32_t>(10 + tokens.size() % 50) : 5;
}

TEST(Choices, NoEndComesBeforeTheLeastNumberOfTokensAndThenItMay) {
  FakeEngine engine({.limits = kLimits}, Eager);
  Scheduler scheduler(engine, {});
  auto choices = Choices(3, 40);
  for (int i = 0; i < 3; ++i) {
    choices[static_cast<size_t>(i)].eos_ids = {5};
    choices[static_cast<size_t>(i)].min_tokens = 10 * i;
  }
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(choices, sink).ok());
  ASSERT_TRUE(sink->wait_end(3));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(sink->tokens(i).size(), static_cast<size_t>(10 * i));
    EXPECT_EQ(sink->reason(i), FinishReason::kStop);
  }
  EXPECT_TRUE(Idle(scheduler));
  EXPECT_THAT(engine.violations(), IsEmpty());
}

TEST(Choices, TheTimeIsToldWhileTheyAreInTheClustersHandsOnly) {
  FakeEngine engine({.limits = kLimits, .up = false}, Next);
  Scheduler scheduler(engine, {});
  auto sink = std::make_shared<RecordingSink>();
  engine.hold(true);
  ASSERT_TRUE(scheduler.submit(Choices(2, 5), sink).ok());
  engine.recover(kLimits);
  EXPECT_TRUE(sink->wait_tick());
  engine.hold(false);
  ASSERT_TRUE(sink->wait_end(2));
}

}  // namespace
}  // namespace shoal
