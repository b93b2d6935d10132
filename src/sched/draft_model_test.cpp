// A draft model changes no token, whatever it drafts and whenever it is lost; and what its cache holds is right.
#include "sched/draft_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>

#include "base/random.h"
#include "base/status.h"
#include "sched/batch_planner.h"
#include "sched/scheduler.h"
#include "sched/testing/fake_draft_engine.h"
#include "sched/testing/fake_engine.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kVocabulary = 101;
constexpr EngineLimits kRoomy{
    .blocks = 256, .context = 2048, .steps_in_flight = 1, .vocabulary = kVocabulary};

/// Says what HashModel says, but otherwise with a probability of 1 - `right`: a model of which lookup knows nothing.
NextTokenFn Mostly(double right) {
  return [right, truth = HashModel(kVocabulary)](std::span<const int32_t> tokens, int32_t prompt_tokens,
                                                 const SamplingParams& sampling) {
    const int32_t token = truth(tokens, prompt_tokens, sampling);
    const bool wrong = RandomUniform(sampling.seed, 7, static_cast<uint64_t>(std::ssize(tokens))) >= right;
    return wrong ? (token + 1) % kVocabulary : token;
  };
}

std::vector<int32_t> Text(RandomStream& random, size_t tokens) {
  std::vector<int32_t> text(tokens);
  for (int32_t& token : text) token = static_cast<int32_t>(random.below(kVocabulary - 1));
  return text;
}

/// What a step takes, in virtual time.
struct Costs {
  int64_t step_ns = 1'000'000;
  int64_t row_ns = 10'000;
  int64_t draft_step_ns = 50'000;
  int64_t draft_row_ns = 1'000;
};

struct Case {
  const char* name;
  EngineLimits limits;
  EngineLimits draft;
  BatchPlannerOptions options;
};
void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

std::vector<Case> Cases() {
  EngineLimits tight = kRoomy;
  tight.blocks = 12;
  EngineLimits pipeline = kRoomy;
  pipeline.steps_in_flight = 3;
  EngineLimits long_rope = kRoomy;
  long_rope.short_rope_positions = 90;
  EngineLimits small = kRoomy;
  small.context = 120;
  small.vocabulary = kVocabulary - 1;
  return {{"roomy", kRoomy, kRoomy, {.draft_max = 8}},
          {"always", kRoomy, kRoomy, {.draft_max = 8, .draft_when = DraftWhen::kAlways}},
          {"few_rows", kRoomy, kRoomy, {.rows_per_step = 9, .sequences_max = 4, .draft_max = 6}},
          {"tight", tight, kRoomy, {.rows_per_step = 64, .draft_max = 8}},
          {"tight_draft", kRoomy, tight, {.draft_max = 8, .draft_when = DraftWhen::kAlways}},
          {"tight_both", tight, tight, {.draft_max = 16, .draft_when = DraftWhen::kAlways}},
          {"pipeline", pipeline, kRoomy, {.rows_per_step = 64, .draft_max = 8}},
          {"pipeline_always", pipeline, tight, {.draft_max = 8, .draft_when = DraftWhen::kAlways}},
          {"long_rope", long_rope, long_rope, {.draft_max = 8, .draft_when = DraftWhen::kAlways}},
          {"long_rope_of_the_draft", kRoomy, long_rope, {.draft_max = 8, .draft_when = DraftWhen::kAlways}},
          {"less_of_all", kRoomy, small, {.draft_max = 8, .draft_when = DraftWhen::kAlways}}};
}

/// A planner, its engine and that of its draft model, in virtual time.
class Bench {
 public:
  Bench(const Case& one, NextTokenFn draft_model, Costs costs = {})
      : limits(one.limits),
        draft_limits(one.draft),
        costs_(costs),
        engine_({.limits = one.limits, .threaded = false}, model),
        draft_model_(std::move(draft_model)),
        planner(one.options) {
    planner.reset(limits);
    recover_draft();
  }
  ~Bench() {
    EXPECT_THAT(engine_.violations(), IsEmpty());
    EXPECT_THAT(draft->violations(), IsEmpty());
  }

  SeqId add(std::vector<int32_t> prompt, int64_t max_tokens, std::vector<int32_t> eos_ids = {}) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = SeqId{next_sequence_++};
    sequence->request.sampling.seed = sequence->id.value;
    sequence->request.max_tokens = max_tokens;
    sequence->request.eos_ids = std::move(eos_ids);
    sequence->tokens = sequence->request.prompt = std::move(prompt);
    const SeqId id = sequence->id;
    planner.enqueue(std::move(sequence));
    return id;
  }
  bool submit() {
    std::optional<Step> step = planner.compose(next_step_);
    if (!step.has_value()) return false;
    ++next_step_.value;
    rows_.push_back(step->rows());
    ++steps;
    engine_.submit(generation_, *std::move(step), [this](absl::StatusOr<StepResult> result) {
      if (result.ok()) results_.push_back(*std::move(result));
    });
    return true;
  }
  /// The draft model's next step.
  bool run_draft() {
    std::optional<Step> step = planner.compose_draft();
    if (!step.has_value()) return false;
    const int64_t ns = costs_.draft_step_ns + costs_.draft_row_ns * step->rows();
    now_ns += ns;
    EXPECT_TRUE(planner.acknowledge_draft(draft->execute(*step), step->rows(), ns).ok());
    EXPECT_FALSE(draft_down);
    return true;
  }
  void acknowledge() {
    ASSERT_TRUE(engine_.run_step());
    StepResult result = std::move(results_.front());
    results_.pop_front();
    const int64_t ns = costs_.step_ns + costs_.row_ns * rows_.front();
    rows_.pop_front();
    now_ns += ns;
    for (StageTiming& timing : result.timings) timing.busy_ns = ns;
    const auto outcomes = planner.acknowledge(result, ns);
    ASSERT_TRUE(outcomes.ok()) << ToString(outcomes.status());
    for (const BatchPlanner::Outcome& one : *outcomes) {
      const Sequence& sequence = *planner.find(one.id);
      const auto& ends = sequence.request.eos_ids;
      const bool end =
          std::ranges::any_of(one.tokens, [&](const auto& t) { return std::ranges::count(ends, t.id) > 0; });
      ASSERT_LE(sequence.generated(), sequence.request.max_tokens);
      if (end || sequence.generated() == sequence.request.max_tokens) finish(one.id);
    }
    const absl::Status sound = planner.verify();
    ASSERT_TRUE(sound.ok()) << ToString(sound);
  }
  void finish(SeqId id) {
    const Sequence& sequence = *planner.find(id);
    const auto& prompt = sequence.request.prompt;
    const std::vector<int32_t> answer(sequence.tokens.begin() + std::ssize(prompt), sequence.tokens.end());
    EXPECT_EQ(answer,
              ExpectedTokens(model, prompt, static_cast<int>(answer.size()), sequence.request.sampling));
    texts[id] = sequence.tokens;
    planner.end(id);
  }
  void run() {
    while (!planner.live_ids().empty() || planner.steps_in_flight() > 0) {
      while (planner.steps_in_flight() < limits.steps_in_flight && submit()) {
      }
      if (run_draft()) continue;
      ASSERT_NO_FATAL_FAILURE(acknowledge());
    }
  }
  void lose() {
    EXPECT_THAT(planner.lose_generation({.losses_in_a_row_max = 1000}), IsEmpty());
    engine_.recover(limits);
    results_.clear();
    rows_.clear();
    ++generation_;
    next_step_ = StepId{1};
    planner.reset(limits);
  }
  void lose_draft() {
    planner.lose_draft_model();
    draft_down = true;
  }
  void recover_draft() {
    if (draft != nullptr) {
      EXPECT_THAT(draft->violations(), IsEmpty());
    }
    draft = std::make_unique<FakeDraftEngine>(draft_limits, draft_model_);
    planner.reset_draft_model(draft_limits);
    draft_down = false;
  }

  const NextTokenFn model = HashModel(kVocabulary);
  const EngineLimits limits;
  const EngineLimits draft_limits;
  std::map<SeqId, std::vector<int32_t>> texts;  ///< Of those that have ended: prompt and answer.
  int64_t now_ns = 0;
  int steps = 0;
  bool draft_down = true;
  std::unique_ptr<FakeDraftEngine> draft;

 private:
  const Costs costs_;
  std::deque<StepResult> results_;
  std::deque<int64_t> rows_;
  FakeEngine engine_;
  const NextTokenFn draft_model_;

 public:
  BatchPlanner planner;

 private:
  uint64_t next_sequence_ = 1;
  StepId next_step_{1};
  uint64_t generation_ = 1;
};

class DraftModelTest : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Plans, DraftModelTest, ::testing::ValuesIn(Cases()),
                         [](const auto& test) { return std::string(test.param.name); });

// Sequences come and end at any time; both engines are lost; prompts go on with what others have written.
TEST_P(DraftModelTest, SequencesGetTheTokensTheyGetWithoutIt) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    RandomStream random(seed);
    Bench bench(GetParam(), Mostly(0.5 + 0.15 * static_cast<double>(seed % 4)));
    for (int event = 0; event < 500; ++event) {
      const uint64_t kind = random.below(24);
      const auto live = bench.planner.live_ids();
      if (kind < 3 && live.size() < 8) {
        std::vector<int32_t> prompt = Text(random, 2 + random.below(60));
        if (!bench.texts.empty() && random.below(2) == 0) {
          const auto& before = std::next(bench.texts.begin(), random.below(bench.texts.size()))->second;
          prompt.insert(prompt.begin(), before.begin(), before.end());
        }
        const int64_t room = 200 - std::ssize(prompt);
        if (room < 2) continue;
        std::vector<int32_t> ends;
        if (random.below(2) == 0) ends = {7, 93};
        bench.add(std::move(prompt), static_cast<int64_t>(1 + random.below(static_cast<uint64_t>(room - 1))),
                  ends);
      } else if (kind == 3 && !live.empty()) {
        bench.finish(live[random.below(live.size())]);
      } else if (kind == 4 && random.below(5) == 0) {
        bench.lose();
      } else if (kind == 5 && random.below(5) == 0) {
        bench.draft_down ? bench.recover_draft() : bench.lose_draft();
      } else if (kind % 3 == 0) {
        bench.run_draft();
      } else if (kind % 3 == 1 && bench.planner.steps_in_flight() > 0) {
        ASSERT_NO_FATAL_FAILURE(bench.acknowledge());
      } else if (bench.planner.steps_in_flight() < GetParam().limits.steps_in_flight) {
        bench.submit();
      }
    }
    bench.recover_draft();
    RandomStream text(seed);
    bench.add(Text(text, 40), 40);
    ASSERT_NO_FATAL_FAILURE(bench.run());
    EXPECT_GT(bench.planner.model_drafts().accepted, 0);
    EXPECT_GE(bench.planner.model_drafts().drafted, bench.planner.model_drafts().accepted);
  }
}

// Also where blocks are few, sequences are preempted, and prompts go on where others ended: nothing in its cache is of
// another text.
TEST_P(DraftModelTest, AModelThatDraftsForItselfIsNeverWrong) {
  Bench bench(GetParam(), HashModel(kVocabulary));
  if (bench.draft_limits.vocabulary < kVocabulary) GTEST_SKIP() << "it can't say all that it would";
  RandomStream random(5);
  for (int turn = 0; turn < 4; ++turn) {
    for (int i = 0; i < 5; ++i) {
      std::vector<int32_t> prompt = Text(random, 3 + random.below(20));
      if (turn > 0) {
        const auto& before = std::next(bench.texts.begin(), random.below(bench.texts.size()))->second;
        prompt.insert(prompt.begin(), before.begin(),
                      before.begin() + std::min<int64_t>(40, std::ssize(before)));
      }
      bench.add(std::move(prompt), 60);
    }
    ASSERT_NO_FATAL_FAILURE(bench.run());
  }
  EXPECT_GT(bench.planner.model_drafts().accepted, 0);
  EXPECT_EQ(bench.planner.model_drafts().accepted, bench.planner.model_drafts().drafted);
}

TEST(DraftModel, AGoodOneThatIsCheapTakesFewSteps) {
  Bench bench(Cases()[0], HashModel(kVocabulary));
  RandomStream random(3);
  bench.add(Text(random, 64), 600);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  EXPECT_LT(bench.steps, 100);
  EXPECT_GT(bench.planner.model_drafts().accepted, 500);
  Bench without(Cases()[0], HashModel(kVocabulary));
  without.lose_draft();
  RandomStream again(3);
  without.add(Text(again, 64), 600);
  ASSERT_NO_FATAL_FAILURE(without.run());
  EXPECT_LT(bench.now_ns, without.now_ns / 3);
}

/// How much longer texts take with the draft model than without.
double Slowdown(const NextTokenFn& draft_model, Costs costs, int sequences) {
  int64_t ns[2];
  for (const bool with : {false, true}) {
    Bench bench(Cases()[0], draft_model, costs);
    if (!with) bench.lose_draft();
    RandomStream random(3);
    for (int i = 0; i < sequences; ++i) bench.add(Text(random, 60), 500);
    bench.run();
    ns[with ? 1 : 0] = bench.now_ns;
  }
  return static_cast<double>(ns[1]) / static_cast<double>(ns[0]);
}

TEST(DraftModel, OneThatDoesNotPayIsHardlyEverAsked) {
  const NextTokenFn right = HashModel(kVocabulary);
  const NextTokenFn wrong = Mostly(0);
  EXPECT_LT(Slowdown(wrong, {}, 1), 1.03);
  EXPECT_LT(Slowdown(wrong, {}, 8), 1.03);
  EXPECT_LT(Slowdown(right, {.draft_step_ns = 1'000'000, .draft_row_ns = 10'000}, 1),
            1.03);                                             // As dear as the model.
  EXPECT_LT(Slowdown(right, {.row_ns = 1'000'000}, 4), 1.03);  // A row more costs as much as a step.
}

// As measured with a draft model of an eighth of the model's work: each request of another kind of text would have it
// read the prompt and be wrong a few times, until it is known that it does not pay.
TEST(DraftModel, RequestsThatItGuessesWronglyAreNotEachTriedAfterOneThatItGuessedWell) {
  const NextTokenFn right_where_1 = [truth = HashModel(kVocabulary)](std::span<const int32_t> tokens,
                                                                     int32_t prompt_tokens,
                                                                     const SamplingParams& sampling) {
    const int32_t token = truth(tokens, prompt_tokens, sampling);
    return tokens.front() == 1 ? token : (token + 1) % kVocabulary;
  };
  const Costs costs = {
      .step_ns = 40'000'000, .row_ns = 8'000'000, .draft_step_ns = 5'000'000, .draft_row_ns = 1'200'000};
  int64_t well_ns[2];
  int64_t wrongly_ns[2];
  for (const bool with : {false, true}) {
    Bench bench(Cases()[0], right_where_1, costs);
    if (!with) bench.lose_draft();
    RandomStream random(3);
    for (int request = 0; request < 24; ++request) {
      const bool well = request < 12;
      if (request == 12) well_ns[with ? 1 : 0] = std::exchange(bench.now_ns, 0);
      std::vector<int32_t> prompt = Text(random, 100);
      prompt.front() = well ? 1 : 2;
      bench.add(std::move(prompt), 150);
      ASSERT_NO_FATAL_FAILURE(bench.run());
    }
    wrongly_ns[with ? 1 : 0] = bench.now_ns;
  }
  EXPECT_LT(static_cast<double>(well_ns[1]), 0.7 * static_cast<double>(well_ns[0]));
  EXPECT_LT(static_cast<double>(wrongly_ns[1]), 1.02 * static_cast<double>(wrongly_ns[0]));
}

TEST(DraftModel, OneThatIsRightAndCheapPaysForSeveralAtOnce) {
  EXPECT_LT(Slowdown(HashModel(kVocabulary), {}, 1), 0.35);
  EXPECT_LT(Slowdown(HashModel(kVocabulary), {}, 8), 0.5);
  EXPECT_LT(Slowdown(Mostly(0.8), {}, 4), 0.7);
}

// A prompt of which nothing is left to gain is not worth reading.
TEST(DraftModel, ALongPromptOfAShortAnswerIsNotCaughtUpWith) {
  Bench bench(Cases()[0], HashModel(kVocabulary));
  RandomStream random(3);
  bench.add(Text(random, 50), 200);  // Shows what it costs, and how good it is.
  ASSERT_NO_FATAL_FAILURE(bench.run());
  const int64_t rows = bench.planner.draft_model().rows;
  bench.add(Text(random, 1900), 3);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  EXPECT_EQ(bench.planner.draft_model().rows, rows);
  bench.add(Text(random, 1500), 400);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  EXPECT_GT(bench.planner.draft_model().rows, rows + 1500);
}

TEST(DraftModel, ASequenceThatGoesOnFromAnotherIsNotReadAgain) {
  Bench bench(Cases()[1], HashModel(kVocabulary));
  RandomStream random(3);
  const SeqId first = bench.add(Text(random, 500), 20);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  std::vector<int32_t> next = bench.texts.at(first);
  next.insert(next.end(), {1, 2, 3});
  const int64_t rows = bench.planner.draft_model().rows;
  bench.add(next, 20);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  EXPECT_LT(bench.planner.draft_model().rows, rows + 60);
}

TEST(DraftModel, ItForgetsSequencesThatHaveEnded) {
  Bench bench(Cases()[1], HashModel(kVocabulary));
  RandomStream random(3);
  for (int i = 0; i < 6; ++i) bench.add(Text(random, 30), 20);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  bench.add(Text(random, 30), 20);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  EXPECT_LE(bench.draft->known_sequences(), 1u);  // The last one's end goes with the next step.
}

TEST(DraftModel, ASequenceThatFailsThereGoesOnWithoutIt) {
  Bench bench(Cases()[1], HashModel(kVocabulary));
  RandomStream random(3);
  const SeqId fails = bench.add(Text(random, 40), 60);
  const SeqId other = bench.add(Text(random, 40), 60);
  int failures = 0;
  bench.draft->tamper = [&](StepResult& result) {
    for (SeqResult& one : result.sequences) {
      if (one.id != fails) continue;
      one = {.id = fails, .status = absl::OutOfRangeError("a NaN")};
      ++failures;
    }
  };
  ASSERT_NO_FATAL_FAILURE(bench.run());
  EXPECT_EQ(failures, 1);
  EXPECT_EQ(bench.texts.size(), 2u);
  EXPECT_GT(bench.planner.model_drafts().accepted, 30) << other.value;
}

TEST(DraftModel, AResultThatDoesNotMatchItsStepIsRefused) {
  for (const auto& [said, wrong] : std::map<std::string, std::function<void(StepResult&)>>{
           {"got the result of", [](StepResult& result) { ++result.id.value; }},
           {"expected 1", [](StepResult& result) { result.sequences[0].tokens.clear(); }},
           {"vocabulary", [](StepResult& result) { result.sequences[0].tokens[0].id = kVocabulary; }},
           {"got no token", [](StepResult& result) { result.sequences.clear(); }},
           {"not in it", [](StepResult& result) { result.sequences[0].id = SeqId{99}; }}}) {
    Bench bench(Cases()[1], HashModel(kVocabulary));
    RandomStream random(3);
    bench.add(Text(random, 40), 60);
    ASSERT_TRUE(bench.submit());
    ASSERT_NO_FATAL_FAILURE(bench.acknowledge());
    ASSERT_FALSE(bench.submit());  // It waits for drafts.
    std::optional<Step> step = bench.planner.compose_draft();
    ASSERT_TRUE(step.has_value());
    bench.draft->tamper = wrong;
    const absl::Status refused =
        bench.planner.acknowledge_draft(bench.draft->execute(*step), step->rows(), 1);
    EXPECT_THAT(Message(refused), HasSubstr(said));
    bench.draft->tamper = {};
    bench.lose_draft();
    ASSERT_NO_FATAL_FAILURE(bench.run());
  }
}

GenerationRequest Request(std::vector<int32_t> prompt, int64_t max_tokens) {
  return {.prompt = std::move(prompt), .max_tokens = max_tokens, .deadline = Deadline::after_ms(60'000)};
}

// Over a scheduler: two choices, penalties of min_tokens, a draft model that is lost and comes back.
TEST(DraftModel, RequestsGetTheirAnswersOverAScheduler) {
  for (const int steps_in_flight : {1, 3}) {
    EngineLimits limits = kRoomy;
    limits.steps_in_flight = steps_in_flight;
    const NextTokenFn model = HashModel(kVocabulary);
    FakeEngine engine({.limits = limits, .step_time = std::chrono::microseconds(100)}, model);
    FakeDraftEngine draft(kRoomy, Mostly(0.9));
    Scheduler scheduler(engine,
                        {.batch = {.rows_per_step = 64, .draft_max = 8, .draft_when = DraftWhen::kAlways},
                         .draft_engine = &draft});
    RandomStream random(11);
    std::vector<std::vector<GenerationRequest>> requests;
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int i = 0; i < 20; ++i) {
      GenerationRequest request = Request(Text(random, 10 + random.below(50)), 80);
      request.sampling.seed = random.bits();
      requests.push_back({request, request});
      requests.back()[1].sampling.seed = random.bits();
      sinks.push_back(std::make_shared<RecordingSink>());
      ASSERT_TRUE(scheduler.submit(requests.back(), sinks.back()).ok());
      if (i == 10) draft.lose();
      if (i == 12) draft.recover();
    }
    for (size_t i = 0; i < sinks.size(); ++i) {
      ASSERT_TRUE(sinks[i]->wait_end(2)) << i;
      for (int choice = 0; choice < 2; ++choice) {
        const GenerationRequest& one = requests[i][static_cast<size_t>(choice)];
        EXPECT_EQ(sinks[i]->tokens(choice).size(), 80u);
        EXPECT_EQ(sinks[i]->tokens(choice), ExpectedTokens(model, one.prompt, 80, one.sampling)) << i;
      }
    }
    const SchedulerStats stats = scheduler.stats();
    EXPECT_GT(stats.model_drafts.accepted, 0);
    EXPECT_GT(stats.draft_model.steps, 0);
    EXPECT_THAT(engine.violations(), IsEmpty());
    EXPECT_THAT(draft.violations(), IsEmpty());
  }
}

TEST(DraftModel, OneThatHangsIsNotWaitedForAndIsUsedAgainWhenItIsBack) {
  const NextTokenFn model = HashModel(kVocabulary);
  FakeEngine engine({.limits = kRoomy}, model);
  FakeDraftEngine draft(kRoomy, model);
  Scheduler scheduler(engine, {.batch = {.draft_max = 8, .draft_when = DraftWhen::kAlways},
                               .draft_engine = &draft,
                               .draft_step_timeout = std::chrono::milliseconds(20)});
  const std::vector<int32_t> prompt = {1, 2, 3};
  const auto answer = [&] {
    const auto sink = std::make_shared<RecordingSink>();
    ASSERT_TRUE(scheduler.submit(Request(prompt, 30), sink).ok());
    ASSERT_TRUE(sink->wait_end());
    EXPECT_EQ(sink->tokens(), ExpectedTokens(model, prompt, 30));
  };
  draft.hangs = true;
  answer();
  EXPECT_EQ(draft.state().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(draft.steps(), 0u);
  draft.hangs = false;
  draft.recover();
  answer();
  EXPECT_GT(draft.steps(), 0u);
  EXPECT_GT(scheduler.stats().model_drafts.accepted, 0);
}

TEST(DraftModel, OneThatKeepsStatesIsNotUsed) {
  const NextTokenFn model = HashModel(kVocabulary);
  FakeEngine engine({.limits = kRoomy}, model);
  EngineLimits states = kRoomy;
  states.state_slots = 8;
  FakeDraftEngine draft(states, model);
  Scheduler scheduler(engine,
                      {.batch = {.draft_max = 8, .draft_when = DraftWhen::kAlways}, .draft_engine = &draft});
  const auto sink = std::make_shared<RecordingSink>();
  const std::vector<int32_t> prompt = {1, 2, 3};
  ASSERT_TRUE(scheduler.submit(Request(prompt, 30), sink).ok());
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->tokens(), ExpectedTokens(model, prompt, 30));
  EXPECT_EQ(draft.steps(), 0u);
  EXPECT_THAT(Message(draft.state().status), HasSubstr("recurrent"));
}

}  // namespace
}  // namespace shoal
