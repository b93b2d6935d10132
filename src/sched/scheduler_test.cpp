#include "sched/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "base/random.h"
#include "base/status.h"
#include "sched/testing/fake_engine.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

GenerationRequest Request(std::vector<int32_t> prompt, int64_t max_tokens) {
  return {.prompt = std::move(prompt), .max_tokens = max_tokens, .deadline = Deadline::after_ms(60'000)};
}

std::vector<int32_t> RandomPrompt(RandomStream& random, size_t length) {
  std::vector<int32_t> prompt(length);
  for (int32_t& token : prompt) token = static_cast<int32_t>(random.below(101));
  return prompt;
}

/// True once `condition` holds; false after 30 s.
bool Eventually(const std::function<bool()>& condition) {
  const Deadline deadline = Deadline::after_ms(30'000);
  while (!condition()) {
    if (deadline.expired()) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

bool Idle(const Scheduler& scheduler) {
  const SchedulerStats stats = scheduler.stats();
  return stats.waiting == 0 && stats.running == 0 && stats.steps_in_flight == 0 && stats.blocks_used == 0;
}

struct MixCase {
  const char* name;
  EngineLimits limits;
  int rows_per_step;
  int sequences_max;
};

void PrintTo(const MixCase& mix, std::ostream* out) { *out << mix.name; }

class SchedulerMix : public ::testing::TestWithParam<MixCase> {};

TEST_P(SchedulerMix, SixtyFourStreamsGetTheTokensTheyGetAlone) {
  const MixCase& mix = GetParam();
  FakeEngine engine({.limits = mix.limits});
  Scheduler scheduler(engine,
                      {.batch = {.rows_per_step = mix.rows_per_step, .sequences_max = mix.sequences_max}});
  const bool tight = mix.limits.blocks < 64;
  engine.hold(tight);  // All 64 want blocks at once.
  RandomStream random(7);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 64; ++i) {
    GenerationRequest request =
        Request(RandomPrompt(random, 1 + random.below(90)), static_cast<int64_t>(1 + random.below(80)));
    request.sampling.seed = random.bits();
    if (i % 3 == 0) request.eos_ids = {5, 6, 7, 8};
    requests.push_back(request);
    sinks.push_back(std::make_shared<RecordingSink>());
    ASSERT_TRUE(scheduler.submit(request, sinks.back()).ok());
    if (i % 9 == 0) std::this_thread::sleep_for(milliseconds(1));
  }
  engine.hold(false);
  for (size_t i = 0; i < sinks.size(); ++i) {
    ASSERT_TRUE(sinks[i]->wait_end()) << i;
    ASSERT_TRUE(sinks[i]->error().ok()) << ToString(sinks[i]->error());
    std::vector<int32_t> expected = ExpectedTokens(
        HashModel(101), requests[i].prompt, static_cast<int>(requests[i].max_tokens), requests[i].sampling);
    const auto eos = std::ranges::find_first_of(expected, requests[i].eos_ids);
    EXPECT_EQ(*sinks[i]->reason(), eos == expected.end() ? FinishReason::kLength : FinishReason::kStop);
    expected.erase(eos, expected.end());
    EXPECT_EQ(sinks[i]->tokens(), expected) << "stream " << i;
    EXPECT_FALSE(sinks[i]->late());
  }
  EXPECT_TRUE(Eventually([&] { return Idle(scheduler); }));
  EXPECT_THAT(engine.violations(), IsEmpty());
  EXPECT_LE(engine.rows_max(), mix.rows_per_step);
  if (mix.limits.steps_in_flight > 1) {
    EXPECT_GT(engine.in_flight_max(), 1);
  }
  if (tight) {
    EXPECT_GT(scheduler.stats().preemptions, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Mixes, SchedulerMix,
    ::testing::Values(
        MixCase{"roomy", {.blocks = 512, .context = 2048, .steps_in_flight = 1, .vocabulary = 101}, 256, 64},
        MixCase{
            "small_chunks", {.blocks = 512, .context = 2048, .steps_in_flight = 1, .vocabulary = 101}, 7, 5},
        MixCase{"one_row", {.blocks = 512, .context = 2048, .steps_in_flight = 2, .vocabulary = 101}, 1, 1},
        MixCase{
            "pipeline", {.blocks = 512, .context = 2048, .steps_in_flight = 4, .vocabulary = 101}, 64, 64},
        MixCase{
            "tight_cache", {.blocks = 8, .context = 2048, .steps_in_flight = 1, .vocabulary = 101}, 64, 32},
        MixCase{"long_rope",
                {.blocks = 512,
                 .context = 2048,
                 .steps_in_flight = 3,
                 .vocabulary = 101,
                 .short_rope_positions = 70},
                32,
                64},
        MixCase{"tight_long_rope",
                {.blocks = 9,
                 .context = 2048,
                 .steps_in_flight = 2,
                 .vocabulary = 101,
                 .short_rope_positions = 100},
                48,
                48},
        MixCase{"tight_pipeline",
                {.blocks = 9, .context = 2048, .steps_in_flight = 3, .vocabulary = 101},
                48,
                48},
        MixCase{"states",
                {.blocks = 512, .context = 2048, .steps_in_flight = 3, .vocabulary = 101, .state_slots = 31},
                64,
                64},
        MixCase{"states_and_tight_blocks",
                {.blocks = 8, .context = 2048, .steps_in_flight = 2, .vocabulary = 101, .state_slots = 100},
                64,
                32}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Scheduler, RefusesWhenTheQueueIsFull) {
  FakeEngine engine({});
  engine.hold(true);
  Scheduler scheduler(engine, {.batch = {.rows_per_step = 8, .sequences_max = 1}, .queue_max = 2});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  auto submit = [&] {
    sinks.push_back(std::make_shared<RecordingSink>());
    return scheduler.submit(Request({1, 2}, 3), sinks.back());
  };
  ASSERT_TRUE(submit().ok());
  ASSERT_TRUE(Eventually([&] { return scheduler.stats().running == 1; }));
  ASSERT_TRUE(submit().ok());
  ASSERT_TRUE(submit().ok());
  const auto refused = submit();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(refused.status()), HasSubstr("2 requests wait"));
  EXPECT_EQ(scheduler.stats().waiting, 2);
  engine.hold(false);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(sinks[i]->wait_end());
  EXPECT_TRUE(submit().ok());
  EXPECT_TRUE(sinks.back()->wait_end());
}

TEST(Scheduler, RefusesPromptsThatCanNeverFitAndGivesAnswersTheRoomThereIs) {
  for (const auto& [blocks, room] : {std::pair(2, 65), std::pair(64, 128)}) {
    FakeEngine engine(
        {.limits = {.blocks = blocks, .context = 128, .steps_in_flight = 1, .vocabulary = 101}});
    Scheduler scheduler(engine, {});
    auto sink = std::make_shared<RecordingSink>();
    const auto refused = scheduler.submit(Request(std::vector<int32_t>(static_cast<size_t>(room)), 1), sink);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(refused.status()),
                HasSubstr(fmt::format("maximum context length is {} tokens. However,", room)));
    const auto overflow = ContextOverflowOf(refused.status());
    ASSERT_TRUE(overflow.has_value());
    EXPECT_EQ(overflow->prompt_tokens, room);
    EXPECT_EQ(overflow->positions, room);
    ASSERT_TRUE(scheduler.submit(Request(std::vector<int32_t>(60), 32'000), sink).ok());
    EXPECT_TRUE(sink->wait_end());
    EXPECT_EQ(sink->tokens().size(), static_cast<size_t>(room - 60));
    EXPECT_EQ(sink->reason(), FinishReason::kLength);
  }
}

TEST(Scheduler, CancelFreesTheBlocks) {
  FakeEngine engine({.step_time = milliseconds(1)});
  Scheduler scheduler(engine, {});
  auto sink = std::make_shared<RecordingSink>();
  const auto id = scheduler.submit(Request({1, 2, 3}, 1500), sink);
  ASSERT_TRUE(sink->wait_tokens(3));
  EXPECT_GT(scheduler.stats().blocks_used, 0);
  scheduler.cancel(*id);
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->error().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Eventually([&] { return Idle(scheduler); }));
  scheduler.cancel(*id);  // Twice does no harm.
  scheduler.cancel(RequestId{999});
  auto other = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Request({4}, 2), other).ok());
  EXPECT_TRUE(other->wait_end());
  EXPECT_EQ(engine.known_sequences(), 1);  // The cancelled one was forgotten by the workers, too.
  EXPECT_THAT(engine.violations(), IsEmpty());
  EXPECT_FALSE(sink->late());
}

TEST(Scheduler, ASinkThatHasEnoughEndsItsRequest) {
  FakeEngine engine({});
  Scheduler scheduler(engine, {});
  auto sink = std::make_shared<RecordingSink>(4);
  ASSERT_TRUE(scheduler.submit(Request({1, 2, 3}, 100), sink).ok());
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->tokens().size(), 4u);
  EXPECT_EQ(*sink->reason(), FinishReason::kStop);
  EXPECT_TRUE(Eventually([&] { return Idle(scheduler); }));
  EXPECT_EQ(engine.steps(), 4);
}

TEST(Scheduler, TheDeadlineEndsRunningAndQueuedRequests) {
  FakeEngine engine({});
  engine.hold(true);
  Scheduler scheduler(engine, {.batch = {.rows_per_step = 8, .sequences_max = 1}});
  auto running = std::make_shared<RecordingSink>();
  auto queued = std::make_shared<RecordingSink>();
  GenerationRequest request = Request({1}, 10);
  request.deadline = Deadline::after_ms(50);
  ASSERT_TRUE(scheduler.submit(request, running).ok());
  ASSERT_TRUE(scheduler.submit(request, queued).ok());
  for (const auto& sink : {running, queued}) {
    ASSERT_TRUE(sink->wait_end());
    EXPECT_EQ(sink->error().code(), absl::StatusCode::kDeadlineExceeded);
  }
  engine.hold(false);
  EXPECT_TRUE(Eventually([&] { return Idle(scheduler); }));
}

TEST(Scheduler, WhereALossFailsWhatRunsTheQueueIsServedWhenTheEngineIsBack) {
  const EngineLimits limits{.blocks = 64, .context = 2048, .steps_in_flight = 2, .vocabulary = 101};
  FakeEngine engine({.limits = limits, .step_time = milliseconds(1)});
  Scheduler scheduler(engine, {.batch = {.rows_per_step = 16, .sequences_max = 2}, .on_loss = OnLoss::kFail});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 3; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    ASSERT_TRUE(scheduler.submit(Request({i, 2, 3}, i < 2 ? 1000 : 5), sinks.back()).ok());
  }
  ASSERT_TRUE(sinks[0]->wait_tokens(2));
  engine.lose(Unavailable("node 'mini2' layer 3 step 17: no progress for 5 s"));
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(sinks[i]->wait_end());
    EXPECT_EQ(sinks[i]->error().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Message(sinks[i]->error()), HasSubstr("'mini2' layer 3 step 17"));
  }
  ASSERT_TRUE(Eventually([&] { return !scheduler.stats().engine.ok(); }));
  EXPECT_FALSE(sinks[2]->reason().has_value());
  engine.recover(limits);
  ASSERT_TRUE(sinks[2]->wait_end());
  EXPECT_EQ(sinks[2]->tokens(), ExpectedTokens(HashModel(101), {2, 2, 3}, 5));
  EXPECT_TRUE(scheduler.stats().engine.ok());
  EXPECT_EQ(scheduler.stats().engine_losses, 1);
  EXPECT_THAT(engine.violations(), IsEmpty());
}

TEST(Scheduler, AQueuedRequestWaitsForTheEngineOnlySoLong) {
  FakeEngine engine({.up = false});
  Scheduler scheduler(engine, {.engine_wait = milliseconds(50)});
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Request({1}, 3), sink).ok());
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->error().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(sink->error()), HasSubstr("node 'fake' is away"));
}

TEST(Scheduler, WhatNoLongerFitsTheRebuiltEngineIsRefused) {
  FakeEngine engine({.up = false});
  Scheduler scheduler(engine, {});
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Request(std::vector<int32_t>(100), 3), sink).ok());
  engine.recover({.blocks = 1, .context = 2048, .steps_in_flight = 1, .vocabulary = 101});
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->error().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Scheduler, ABegunRequestWaitsForTheEngineUntilItsDeadline) {
  FakeEngine engine({.step_time = milliseconds(1)});
  Scheduler scheduler(engine,
                      {.batch = {.rows_per_step = 8, .sequences_max = 1}, .engine_wait = milliseconds(50)});
  auto begun = std::make_shared<RecordingSink>();
  auto queued = std::make_shared<RecordingSink>();
  GenerationRequest request = Request({1, 2, 3}, 1500);
  request.deadline = Deadline::after_ms(600);
  ASSERT_TRUE(scheduler.submit(request, begun).ok());
  ASSERT_TRUE(scheduler.submit(Request({4}, 3), queued).ok());
  ASSERT_TRUE(begun->wait_tokens(2));
  const auto lost_at = Clock::now();
  engine.lose(Unavailable("node 'mini2' is lost"));
  ASSERT_TRUE(queued->wait_end());
  EXPECT_THAT(Message(queued->error()), HasSubstr("not ready: node 'mini2' is lost"));
  EXPECT_FALSE(begun->reason().has_value() || !begun->error().ok());
  ASSERT_TRUE(begun->wait_end());
  EXPECT_GE(Clock::now() - lost_at, milliseconds(200));
  EXPECT_EQ(begun->error().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(begun->error()),
              HasSubstr("is not back by the request's deadline: node 'mini2' is lost"));
  EXPECT_TRUE(Eventually([&] { return Idle(scheduler); }));
}

TEST(Scheduler, RequestsThatWaitToGoOnTakeNoPlaceInTheQueue) {
  const EngineLimits limits{.blocks = 64, .context = 2048, .steps_in_flight = 1, .vocabulary = 101};
  FakeEngine engine({.limits = limits, .step_time = milliseconds(1)});
  Scheduler scheduler(engine, {.batch = {.rows_per_step = 8, .sequences_max = 3}, .queue_max = 1});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  const auto submit = [&] {
    sinks.push_back(std::make_shared<RecordingSink>());
    return scheduler.submit(Request({1, 2}, 300), sinks.back()).status();
  };
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(submit(), absl::OkStatus());
    ASSERT_TRUE(sinks.back()->wait_tokens(1));
  }
  engine.lose(Unavailable("node 'b' is lost"));
  ASSERT_TRUE(Eventually([&] { return scheduler.stats().waiting == 3; }));
  EXPECT_EQ(submit(), absl::OkStatus());
  EXPECT_EQ(submit().code(), absl::StatusCode::kResourceExhausted);
  engine.recover(limits);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(sinks[static_cast<size_t>(i)]->wait_end());
    EXPECT_EQ(sinks[static_cast<size_t>(i)]->tokens(), ExpectedTokens(HashModel(101), {1, 2}, 300));
  }
  EXPECT_EQ(scheduler.stats().restarts, 3);
  EXPECT_THAT(engine.violations(), IsEmpty());
}

TEST(Scheduler, WhatHadBegunAndNoLongerFitsIsToldWhy) {
  FakeEngine engine({.step_time = milliseconds(1)});
  Scheduler scheduler(engine, {});
  auto large = std::make_shared<RecordingSink>();
  auto small = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Request({1}, 1000), large).ok());
  ASSERT_TRUE(scheduler.submit(Request({2}, 60), small).ok());
  ASSERT_TRUE(large->wait_tokens(3));
  engine.lose(Unavailable("node 'b' is lost"));
  engine.recover({.blocks = 2, .context = 2048, .steps_in_flight = 1, .vocabulary = 101});
  ASSERT_TRUE(large->wait_end());
  EXPECT_EQ(large->error().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(large->error()), HasSubstr("rebuilt with other limits"));
  EXPECT_THAT(Message(large->error()), HasSubstr("32 blocks"));
  ASSERT_TRUE(small->wait_end());
  EXPECT_EQ(small->tokens(), ExpectedTokens(HashModel(101), {2}, 60));
}

TEST(Scheduler, AResultThatMakesNoSenseEndsTheGenerationAndNoRequest) {
  const EngineLimits limits{.blocks = 64, .context = 2048, .steps_in_flight = 2, .vocabulary = 101};
  const std::vector<std::function<void(StepResult&)>> faults = {
      [](StepResult& result) { result.id.value += 3; },
      [](StepResult& result) { result.sequences.clear(); },
      [](StepResult& result) { result.sequences.at(0).id = SeqId{77}; },
      [](StepResult& result) { result.sequences.push_back(result.sequences.at(0)); },
      [](StepResult& result) { result.sequences.at(1) = result.sequences.at(0); },
      [](StepResult& result) { result.sequences.at(0).status = OutOfRange("and yet a token"); },
      [](StepResult& result) {
        result.sequences.push_back({SeqId{77}, {}, OutOfRange("of nobody")});
      },
  };
  for (size_t fault = 0; fault < faults.size(); ++fault) {
    FakeEngine engine({.limits = limits});
    std::atomic<int> results{0};
    engine.set_tamper([&](StepResult& result) {
      if (result.sequences.size() > 1 && ++results == 3) faults[fault](result);
    });
    engine.hold(true);
    Scheduler scheduler(engine, {});
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int i = 0; i < 4; ++i) {
      sinks.push_back(std::make_shared<RecordingSink>());
      ASSERT_TRUE(scheduler.submit(Request({i, 9}, 40), sinks.back()).ok());
    }
    engine.hold(false);
    ASSERT_TRUE(Eventually([&] { return !engine.state().status.ok(); })) << fault;
    EXPECT_EQ(engine.state().status.code(), absl::StatusCode::kInternal);
    engine.recover(limits);
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(sinks[static_cast<size_t>(i)]->wait_end());
      EXPECT_EQ(sinks[static_cast<size_t>(i)]->tokens(), ExpectedTokens(HashModel(101), {i, 9}, 40));
    }
    EXPECT_THAT(engine.violations(), IsEmpty());
  }
}

TEST(Scheduler, WhatIsWrongWithOneSequenceEndsThatOneAlone) {
  const EngineLimits limits{.blocks = 64, .context = 2048, .steps_in_flight = 3, .vocabulary = 101};
  for (const bool prefill : {false, true}) {
    FakeEngine engine({.limits = limits});
    int results = 0;
    bool done = false;
    engine.set_tamper([&](StepResult& result) {
      if (++results < 6 || done || result.sequences.size() < 2) return;  // By then all are in the steps.
      done = true;
      if (prefill) {  // Of the long prompt, which is in each step and not sampled yet.
        result.sequences.push_back({SeqId{5}, {}, OutOfRange("a value is not finite")});
      } else {
        result.sequences[1] = {result.sequences[1].id, {}, InvalidArgument("sampling allows nothing")};
      }
    });
    engine.hold(true);
    Scheduler scheduler(engine, {.batch = {.rows_per_step = 16}});
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    std::vector<std::vector<int32_t>> prompts;
    for (int32_t i = 1; i < 5; ++i) prompts.push_back({i, 9});
    prompts.emplace_back(900, 5);
    for (const std::vector<int32_t>& prompt : prompts) {
      sinks.push_back(std::make_shared<RecordingSink>());
      ASSERT_TRUE(scheduler.submit(Request(prompt, 40), sinks.back()).ok());
    }
    engine.hold(false);
    int failed = 0;
    for (size_t i = 0; i < sinks.size(); ++i) {
      ASSERT_TRUE(sinks[i]->wait_end());
      const absl::Status error = sinks[i]->error();
      if (error.ok()) {
        EXPECT_EQ(sinks[i]->tokens(), ExpectedTokens(HashModel(101), prompts[i], 40));
        continue;
      }
      ++failed;
      EXPECT_EQ(i == 4, prefill);
      EXPECT_EQ(error, prefill ? Internal("OUT_OF_RANGE: a value is not finite")
                               : InvalidArgument("sampling allows nothing"));
    }
    EXPECT_EQ(failed, 1);
    EXPECT_TRUE(Eventually([&] { return Idle(scheduler); }));
    EXPECT_EQ(scheduler.stats().engine_losses, 0);
    EXPECT_EQ(scheduler.stats().blocks_free + scheduler.stats().blocks_cached, 64);
  }
}

TEST(Scheduler, LimitsThatNoEngineMayHaveEndTheirGeneration) {
  FakeEngine engine({.up = false});
  Scheduler scheduler(engine, {});
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Request({1}, 3), sink).ok());
  engine.recover({.blocks = 8, .context = 64, .steps_in_flight = 0, .vocabulary = 101});
  ASSERT_TRUE(Eventually([&] { return !engine.state().status.ok(); }));
  engine.recover({.blocks = 8, .context = 64, .steps_in_flight = 1, .vocabulary = 101});
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->tokens(), ExpectedTokens(HashModel(101), {1}, 3));
}

TEST(Scheduler, AnIdBeyondTheVocabularyIsRefusedAndNobodyElseNotices) {
  FakeEngine engine({});
  Scheduler scheduler(engine, {});
  auto running = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Request({1, 100}, 200), running).ok());
  const auto refused = scheduler.submit(Request({1, 101, 3}, 5), std::make_shared<RecordingSink>());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(refused.status()), HasSubstr("id 101"));
  ASSERT_TRUE(running->wait_end());
  EXPECT_EQ(running->tokens(), ExpectedTokens(HashModel(101), {1, 100}, 200));
}

TEST(Scheduler, AnIdBeyondTheVocabularyOfALaterEngineEndsItsRequestAlone) {
  FakeEngine engine({.up = false});
  Scheduler scheduler(engine, {});
  auto unknown = std::make_shared<RecordingSink>();
  auto known = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Request({1, 101}, 5), unknown).ok());
  ASSERT_TRUE(scheduler.submit(Request({1, 100}, 5), known).ok());
  engine.recover({.blocks = 8, .context = 64, .steps_in_flight = 1, .vocabulary = 101});
  ASSERT_TRUE(unknown->wait_end());
  EXPECT_EQ(unknown->error().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(unknown->error()), HasSubstr("id 101"));
  ASSERT_TRUE(known->wait_end());
  EXPECT_EQ(known->tokens(), ExpectedTokens(HashModel(101), {1, 100}, 5));
}

/// Looks at the scheduler's numbers at the very moment when it hears the end.
class CountingSink : public RecordingSink {
 public:
  explicit CountingSink(const Scheduler** scheduler) : scheduler_(scheduler) {}
  void on_finish(int choice, FinishReason reason) override {
    stats_ = (*scheduler_)->stats();
    RecordingSink::on_finish(choice, reason);
  }
  void on_error(const absl::Status& status) override {
    stats_ = (*scheduler_)->stats();
    RecordingSink::on_error(status);
  }
  const SchedulerStats& stats() const { return stats_; }

 private:
  const Scheduler** scheduler_;
  SchedulerStats stats_;
};

TEST(Scheduler, WhoHearsTheEndFindsItCounted) {
  const EngineLimits limits{.blocks = 64, .context = 2048, .steps_in_flight = 2, .vocabulary = 101};
  const Scheduler* raw = nullptr;
  FakeEngine engine({.limits = limits});
  int64_t observed = 0;
  Scheduler scheduler(engine, {.on_loss = OnLoss::kFail,
                               .on_step = [&](const StepObservation& step) { observed = step.rows; }});
  raw = &scheduler;
  auto answered = std::make_shared<CountingSink>(&raw);
  ASSERT_TRUE(scheduler.submit(Request({1, 2, 3}, 1), answered).ok());
  ASSERT_TRUE(answered->wait_end());
  EXPECT_EQ(answered->stats().blocks_used, 0);
  EXPECT_EQ(answered->stats().blocks_free + answered->stats().blocks_cached, 64);
  EXPECT_EQ(answered->stats().running, 0);
  EXPECT_EQ(answered->stats().steps, 1);
  EXPECT_EQ(answered->stats().tokens_generated, 1);
  EXPECT_EQ(observed, 3);  // As are the metrics.

  engine.hold(true);
  auto failed = std::make_shared<CountingSink>(&raw);
  ASSERT_TRUE(scheduler.submit(Request({1, 2, 3}, 9), failed).ok());
  ASSERT_TRUE(Eventually([&] { return scheduler.stats().blocks_used > 0; }));
  engine.lose(Unavailable("node 'b' is lost"));
  ASSERT_TRUE(failed->wait_end());
  EXPECT_EQ(failed->stats().blocks_used, 0);
  EXPECT_EQ(failed->stats().running, 0);
  EXPECT_FALSE(failed->stats().engine.ok());
}

TEST(Scheduler, LosingTheEngineUnderLoadLeaksNothing) {
  const EngineLimits limits{.blocks = 10, .context = 2048, .steps_in_flight = 3, .vocabulary = 101};
  for (const OnLoss on_loss : {OnLoss::kFail, OnLoss::kResume}) {
    FakeEngine engine({.limits = limits});
    Scheduler scheduler(
        engine, {.batch = {.rows_per_step = 32, .sequences_max = 16}, .queue_max = 1000, .on_loss = on_loss});
    RandomStream random(3);
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    std::vector<std::vector<int32_t>> prompts;
    for (int round = 0; round < 20; ++round) {
      for (int i = 0; i < 10; ++i) {
        sinks.push_back(std::make_shared<RecordingSink>());
        prompts.push_back(RandomPrompt(random, 1 + random.below(60)));
        const auto id = scheduler.submit(Request(prompts.back(), 60), sinks.back());
        ASSERT_TRUE(id.ok());
        if (i % 4 == 0) scheduler.cancel(*id);
      }
      std::this_thread::sleep_for(milliseconds(2));
      engine.lose(Unavailable("node 'b' is lost"));
      std::this_thread::sleep_for(milliseconds(1));
      engine.recover(limits);
    }
    for (size_t i = 0; i < sinks.size(); ++i) {
      ASSERT_TRUE(sinks[i]->wait_end());
      if (!sinks[i]->error().ok()) continue;
      EXPECT_EQ(sinks[i]->tokens(), ExpectedTokens(HashModel(101), prompts[i], 60));
    }
    EXPECT_TRUE(Eventually([&] { return Idle(scheduler); }));
    EXPECT_THAT(engine.violations(), IsEmpty());
    EXPECT_EQ(scheduler.stats().blocks_free + scheduler.stats().blocks_cached, 10);
  }
}

TEST(Scheduler, StopEndsEverything) {
  FakeEngine engine({});
  engine.hold(true);
  auto sink = std::make_shared<RecordingSink>();
  Scheduler scheduler(engine, {});
  ASSERT_TRUE(scheduler.submit(Request({1}, 3), sink).ok());
  scheduler.stop();
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->error().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(scheduler.submit(Request({1}, 3), sink).status().code(), absl::StatusCode::kCancelled);
}

TEST(Scheduler, ObservesEachStep) {
  std::mutex mutex;
  int64_t rows = 0, steps = 0;
  FakeEngine engine({});
  Scheduler scheduler(engine, {.on_step = [&](const StepObservation& step) {
                        std::lock_guard lock(mutex);
                        rows += step.rows;
                        steps += static_cast<int64_t>(step.timings.size());
                      }});
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(Request({1, 2, 3, 4}, 3), sink).ok());
  ASSERT_TRUE(sink->wait_end());
  ASSERT_TRUE(Eventually([&] { return Idle(scheduler); }));
  EXPECT_EQ(scheduler.stats().rows, 4 + 2);
  std::lock_guard lock(mutex);
  EXPECT_EQ(rows, 4 + 2);
  EXPECT_EQ(steps, 3);
}

}  // namespace
}  // namespace shoal
