// What requests ask of the rows of their prompts: it does not depend on chunks, on the cache or on preemptions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/status.h"
#include "sched/scheduler.h"
#include "sched/testing/fake_engine.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

using ::testing::IsEmpty;

constexpr int kVocabulary = 101;

std::vector<int32_t> Prompt(size_t tokens) {
  std::vector<int32_t> prompt(tokens);
  for (size_t i = 0; i < tokens; ++i) prompt[i] = static_cast<int32_t>((7 * i + 3) % kVocabulary);
  return prompt;
}

std::vector<SampledToken> ScoresOf(const std::vector<int32_t>& prompt, int32_t top) {
  std::vector<SampledToken> scores;
  for (size_t i = 1; i < prompt.size(); ++i) scores.push_back(WithLogprobs(prompt[i], top));
  return scores;
}

struct Conditions {
  int rows_per_step;
  int blocks;
  int steps_in_flight;
};
/// The last two have no room for three sequences at once.
constexpr Conditions kConditions[] = {{256, 64, 1}, {40, 64, 3}, {7, 64, 2}, {40, 7, 2}, {7, 7, 3}};

class PromptResults : public ::testing::TestWithParam<Conditions> {
 protected:
  void start() {
    engine_ = std::make_unique<FakeEngine>(
        FakeEngineOptions{.limits = {.blocks = GetParam().blocks,
                                     .context = 2048,
                                     .steps_in_flight = GetParam().steps_in_flight,
                                     .vocabulary = kVocabulary}});
    scheduler_ = std::make_unique<Scheduler>(
        *engine_, SchedulerOptions{.batch = {.rows_per_step = GetParam().rows_per_step}});
  }
  /// All choices at once, until they end.
  std::shared_ptr<RecordingSink> ask(std::vector<GenerationRequest> choices) {
    auto sink = std::make_shared<RecordingSink>();
    for (GenerationRequest& one : choices) one.deadline = Deadline::after_ms(60'000);
    const auto count = static_cast<int>(choices.size());
    EXPECT_TRUE(scheduler_->submit(std::move(choices), sink).ok());
    EXPECT_TRUE(sink->wait_end(count));
    EXPECT_FALSE(sink->late());
    EXPECT_TRUE(sink->error().ok());
    return sink;
  }
  void TearDown() override {
    scheduler_->stop();
    EXPECT_THAT(engine_->violations(), IsEmpty());
  }

  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_P(PromptResults, EachTokenOfAPromptIsScoredOnce) {
  start();
  const auto prompt = Prompt(100);
  GenerationRequest plain{.prompt = prompt, .max_tokens = 40};
  GenerationRequest scored = plain;
  scored.score_prompt = true;
  scored.sampling.top_logprobs = 2;
  const auto alone = ask({plain});  // Leaves its blocks in the cache.
  const auto sink = ask({scored, plain, scored, scored});
  for (const int choice : {0, 2, 3}) EXPECT_EQ(sink->scores(choice), ScoresOf(prompt, 2)) << choice;
  EXPECT_EQ(sink->cached(0), 0);  // What is scored is computed.
  EXPECT_THAT(sink->scores(1), IsEmpty());
  for (const int choice : {0, 1, 2, 3}) EXPECT_EQ(sink->tokens(choice), alone->tokens()) << choice;
}

TEST_P(PromptResults, AnEmbeddingIsOfTheWholePrompt) {
  start();
  const auto prompt = Prompt(100);
  GenerationRequest mean{.prompt = prompt, .pool = Pool::kMean};
  GenerationRequest last{.prompt = prompt, .pool = Pool::kLast};
  GenerationRequest one{.prompt = {5}, .pool = Pool::kMean};
  const auto sink = ask({mean, last, mean, one});
  EXPECT_EQ(sink->embedding(0), FakeEmbedding(prompt, Pool::kMean));
  EXPECT_EQ(sink->embedding(1), FakeEmbedding(prompt, Pool::kLast));
  EXPECT_EQ(sink->embedding(2), FakeEmbedding(prompt, Pool::kMean));
  EXPECT_EQ(sink->embedding(3), FakeEmbedding(std::vector<int32_t>{5}, Pool::kMean));
  EXPECT_THAT(sink->tokens(0), IsEmpty());
  const auto again = ask({last, mean});
  EXPECT_EQ(again->cached(0), 96);  // One row is enough,
  EXPECT_EQ(again->cached(1), 0);   // and all are needed.
  EXPECT_EQ(again->embedding(0), FakeEmbedding(prompt, Pool::kLast));
  EXPECT_EQ(again->embedding(1), FakeEmbedding(prompt, Pool::kMean));
}

TEST_P(PromptResults, ARequestForNoTokensEndsWithItsPrompt) {
  start();
  const auto prompt = Prompt(70);
  GenerationRequest nothing{.prompt = prompt};
  GenerationRequest scored{.prompt = prompt, .score_prompt = true};
  GenerationRequest short_one{.prompt = {9}, .score_prompt = true};
  const auto sink = ask({nothing, scored, short_one});
  EXPECT_EQ(sink->scores(1), ScoresOf(prompt, 0));
  EXPECT_THAT(sink->scores(2), IsEmpty());
  for (const int choice : {0, 1, 2}) {
    EXPECT_THAT(sink->tokens(choice), IsEmpty());
    EXPECT_EQ(sink->reason(choice), FinishReason::kLength);
  }
  EXPECT_EQ(scheduler_->stats().tokens_generated, 0);
  const auto after = ask({{.prompt = prompt, .max_tokens = 3}});
  EXPECT_EQ(after->cached(), 64);  // The prompt is in the cache.
  EXPECT_EQ(after->tokens(), ExpectedTokens(HashModel(kVocabulary), prompt, 3));
}

TEST_P(PromptResults, APromptMayFillTheWholeContextWhereNothingIsGenerated) {
  start();
  const int64_t room = std::min<int64_t>(GetParam().blocks * kBlockPositions, 2048);
  const auto sink = ask({{.prompt = Prompt(static_cast<size_t>(room)), .pool = Pool::kLast}});
  EXPECT_FALSE(sink->embedding().empty());
  const auto longer =
      scheduler_->submit({.prompt = Prompt(static_cast<size_t>(room + 1)), .pool = Pool::kLast},
                         std::make_shared<RecordingSink>());
  EXPECT_EQ(longer.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(PromptResults, ALostClusterChangesNothing) {
  start();
  engine_->hold(true);
  const auto prompt = Prompt(100);
  auto sink = std::make_shared<RecordingSink>();
  GenerationRequest scored{.prompt = prompt, .max_tokens = 9, .score_prompt = true};
  GenerationRequest mean{.prompt = prompt, .pool = Pool::kMean};
  for (GenerationRequest* one : {&scored, &mean}) one->deadline = Deadline::after_ms(60'000);
  ASSERT_TRUE(scheduler_->submit({scored, mean}, sink).ok());
  for (int loss = 0; loss < 3; ++loss) {
    for (int step = 0; step < 2; ++step) {
      const Deadline deadline = Deadline::after_ms(30'000);
      while (!engine_->run_step() && !deadline.expired() && !sink->reason(0).has_value()) {
      }
    }
    engine_->lose(Unavailable("node 'b' is gone"));
    engine_->recover({.blocks = GetParam().blocks,
                      .context = 2048,
                      .steps_in_flight = GetParam().steps_in_flight,
                      .vocabulary = kVocabulary});
  }
  engine_->hold(false);
  ASSERT_TRUE(sink->wait_end(2));
  EXPECT_FALSE(sink->late());
  EXPECT_TRUE(sink->error().ok()) << ToString(sink->error());
  EXPECT_EQ(sink->scores(0), ScoresOf(prompt, 0));
  EXPECT_EQ(sink->tokens(0), ExpectedTokens(HashModel(kVocabulary), prompt, 9));
  EXPECT_EQ(sink->embedding(1), FakeEmbedding(prompt, Pool::kMean));
}

INSTANTIATE_TEST_SUITE_P(Conditions, PromptResults, ::testing::ValuesIn(kConditions));

TEST(PromptResultsOfAnEngine, OneThatLacksScoresLosesIt) {
  FakeEngine engine({.limits = {.blocks = 64, .context = 2048, .vocabulary = kVocabulary}});
  engine.set_tamper([](StepResult& result) { result.sequences.front().scores.pop_back(); });
  Scheduler scheduler(engine, {.on_loss = OnLoss::kFail});
  auto sink = std::make_shared<RecordingSink>();
  GenerationRequest request{
      .prompt = Prompt(10), .deadline = Deadline::after_ms(60'000), .score_prompt = true};
  ASSERT_TRUE(scheduler.submit(std::move(request), sink).ok());
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->error().code(), absl::StatusCode::kInternal);
}

TEST(PromptResultsOfAnEngine, TheTokenThatEndsATextIsTold) {
  FakeEngine engine({.limits = {.blocks = 64, .context = 2048, .vocabulary = kVocabulary}});
  Scheduler scheduler(engine, {});
  auto sink = std::make_shared<RecordingSink>();
  const auto expected = ExpectedTokens(HashModel(kVocabulary), {1, 2, 3}, 5);
  ASSERT_EQ(std::ranges::count(expected, expected[4]), 1);
  GenerationRequest request{.prompt = {1, 2, 3},
                            .max_tokens = 40,
                            .eos_ids = {expected[4]},
                            .deadline = Deadline::after_ms(60'000)};
  ASSERT_TRUE(scheduler.submit(std::move(request), sink).ok());
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->tokens().size(), 4u);
  ASSERT_TRUE(sink->end_token().has_value());
  EXPECT_EQ(sink->end_token()->id, expected[4]);
}

}  // namespace
}  // namespace shoal
