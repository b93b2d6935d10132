#include "sched/wait_predictor.h"

#include <gtest/gtest.h>

#include <vector>

namespace shoal {
namespace {

constexpr int64_t kMs = 1'000'000;

/// A token every 100 ms, 1,000 rows of prompts a second.
WaitPredictor Taught(int64_t answer = 0) {
  WaitPredictor waits;
  for (int i = 0; i < 50; ++i) {
    waits.observe({.rows = 4, .tokens = 4, .elapsed_ns = 100 * kMs, .period_ns = 100 * kMs});
    waits.observe({.rows = 100, .tokens = 0, .elapsed_ns = 300 * kMs, .period_ns = 100 * kMs});
    if (answer > 0) waits.observe_answer(answer);
  }
  return waits;
}

TEST(WaitPredictor, WithoutMeasurementsItIsNow) {
  const WaitPredictor waits;
  const std::vector<RemainingWork> running = {{.prompt_rows = 100, .tokens_max = 500}};
  EXPECT_EQ(waits.first_end_s(running), 0);
  EXPECT_EQ(waits.queue_s(running, {.requests = 3, .prompt_tokens = 900}), 0);
  EXPECT_EQ(Taught().first_end_s({}), 0);
}

TEST(WaitPredictor, TheFirstToEndMakesRoom) {
  const std::vector<RemainingWork> running = {{.tokens_max = 500}, {.generated = 60, .tokens_max = 40}};
  EXPECT_NEAR(Taught().first_end_s(running), 4, 1e-6);
}

TEST(WaitPredictor, PromptsComeBeforeTokensOneAfterTheOther) {
  const std::vector<RemainingWork> running = {{.prompt_rows = 3000, .tokens_max = 100},
                                              {.prompt_rows = 2000, .tokens_max = 10}};
  EXPECT_NEAR(Taught().first_end_s(running), 5 + 1, 1e-6);
}

TEST(WaitPredictor, RecentAnswersBoundWhatMaxTokensAllows) {
  const std::vector<RemainingWork> fresh = {{.tokens_max = 32000}};
  const std::vector<RemainingWork> half = {{.generated = 100, .tokens_max = 31900}};
  const std::vector<RemainingWork> overdue = {{.generated = 400, .tokens_max = 31600}};
  const std::vector<RemainingWork> nearly = {{.generated = 10, .tokens_max = 3}};
  EXPECT_NEAR(Taught(200).first_end_s(fresh), 20, 1e-6);
  EXPECT_NEAR(Taught(200).first_end_s(half), 10, 1e-6);
  EXPECT_NEAR(Taught(200).first_end_s(overdue), 5, 1e-6);
  EXPECT_NEAR(Taught(200).first_end_s(nearly), 0.3, 1e-6);
}

TEST(WaitPredictor, AQueueTakesItsPromptsAndAShareOfItsAnswers) {
  const std::vector<RemainingWork> running = {{.generated = 100, .tokens_max = 1000},
                                              {.generated = 50, .tokens_max = 1000}};
  const WaitPredictor waits = Taught(200);
  EXPECT_EQ(waits.queue_s(running, {}), 0);
  // 10 s until one of the two ends; 3 s of prompts; four answers of 20 s, two at a time.
  EXPECT_NEAR(waits.queue_s(running, {.requests = 4, .prompt_tokens = 3000}), 10 + 3 + 40, 1e-6);
}

TEST(WaitPredictor, RecentStepsCountMost) {
  WaitPredictor waits = Taught();
  for (int i = 0; i < 200; ++i) {
    waits.observe({.rows = 1, .tokens = 1, .elapsed_ns = 10 * kMs, .period_ns = 10 * kMs});
  }
  const std::vector<RemainingWork> running = {{.tokens_max = 100}};
  EXPECT_NEAR(waits.first_end_s(running), 1, 0.01);
}

}  // namespace
}  // namespace shoal
