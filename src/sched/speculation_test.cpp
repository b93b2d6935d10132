// Drafts change no token, whatever becomes of them: the planner and the scheduler over an engine whose pseudo-model
// repeats its prompt with edits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "sched/batch_planner.h"
#include "sched/scheduler.h"
#include "sched/testing/fake_engine.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int kVocabulary = 101;
constexpr int32_t kEnd = 100;  // An end-of-text id.

/// Repeats the prompt, again and again, and puts another token in with a probability of 1 - `faithful`; kEnd among
/// them, unless logit_bias withholds it.
NextTokenFn CopyModel(double faithful) {
  return [faithful](std::span<const int32_t> tokens, int32_t prompt_tokens, const SamplingParams& sampling) {
    const auto position = std::ssize(tokens);
    uint64_t key = sampling.seed;
    for (const int32_t token : tokens.last(std::min<size_t>(tokens.size(), 4))) {
      key = Mix64(key ^ static_cast<uint64_t>(token));
    }
    const auto copied = tokens[static_cast<size_t>(position - prompt_tokens)];
    if (RandomUniform(key, 1, static_cast<uint64_t>(position)) < faithful) return copied;
    const auto other =
        static_cast<int32_t>(RandomBits(key, 2, static_cast<uint64_t>(position)) % kVocabulary);
    return other == kEnd && !sampling.logit_bias.empty() ? 0 : other;
  };
}

std::vector<int32_t> Text(RandomStream& random, size_t tokens) {
  std::vector<int32_t> text(tokens);
  for (int32_t& token : text) token = static_cast<int32_t>(random.below(kVocabulary - 1));
  return text;
}

struct Case {
  const char* name;
  EngineLimits limits;
  BatchPlannerOptions options;
};
void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

constexpr EngineLimits kRoomy{
    .blocks = 256, .context = 2048, .steps_in_flight = 1, .vocabulary = kVocabulary};

std::vector<Case> Cases() {
  EngineLimits tight = kRoomy;
  tight.blocks = 12;
  EngineLimits pipeline = kRoomy;
  pipeline.steps_in_flight = 3;
  EngineLimits long_rope = pipeline;
  long_rope.short_rope_positions = 90;
  EngineLimits all = long_rope;
  all.blocks = 12;
  EngineLimits with_head = kRoomy;
  with_head.mtp = true;
  EngineLimits all_with_head = all;
  all_with_head.mtp = true;
  EngineLimits states = kRoomy;
  states.state_slots = 40;
  EngineLimits states_of_stages = with_head;
  states_of_stages.steps_in_flight = 4;
  states_of_stages.state_slots = 70;
  EngineLimits few_states = tight;
  few_states.state_slots = 10;
  return {{"roomy", kRoomy, {.draft_max = 8}},
          {"one_by_one", kRoomy, {.sequences_max = 1, .draft_max = 24}},
          {"few_rows", kRoomy, {.rows_per_step = 9, .sequences_max = 4, .draft_max = 6}},
          {"tight", tight, {.rows_per_step = 64, .draft_max = 16}},
          {"without_prefix_cache", tight, {.rows_per_step = 64, .prefix_cache = false, .draft_max = 16}},
          {"pipeline", pipeline, {.rows_per_step = 64, .draft_max = 8}},
          {"long_rope", long_rope, {.rows_per_step = 64, .draft_max = 8}},
          {"all_at_once", all, {.rows_per_step = 32, .draft_max = 8}},
          {"mtp", with_head, {.rows_per_step = 64, .draft_max = 8}},
          {"mtp_all_at_once", all_with_head, {.rows_per_step = 32, .draft_max = 8}},
          {"states", states, {.draft_max = 8}},
          {"states_without_prefix_cache", states, {.prefix_cache = false, .draft_max = 8}},
          {"states_of_stages", states_of_stages, {.rows_per_step = 48, .draft_max = 8}},
          {"few_states", few_states, {.rows_per_step = 20, .draft_max = 16}}};
}

/// A planner and its engine, whose steps cost little more for more rows.
class Bench {
 public:
  Bench(const Case& one, double faithful, double mtp_right = 0.7)
      : model_(CopyModel(faithful)),
        engine_({.limits = one.limits, .threaded = false, .mtp_right = mtp_right}, model_),
        planner_(one.options),
        limits_(one.limits) {
    planner_.reset(limits_);
  }
  ~Bench() { EXPECT_THAT(engine_.violations(), IsEmpty()); }

  SeqId add(std::vector<int32_t> prompt, int64_t max_tokens, std::vector<int32_t> eos_ids = {},
            std::vector<int32_t> expected = {}) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = SeqId{next_sequence_++};
    sequence->request.sampling.seed = sequence->id.value;
    sequence->request.max_tokens = max_tokens;
    sequence->request.eos_ids = std::move(eos_ids);
    sequence->request.expected = std::move(expected);
    sequence->tokens = sequence->request.prompt = std::move(prompt);
    const SeqId id = sequence->id;
    planner_.enqueue(std::move(sequence));
    return id;
  }
  bool submit() {
    std::optional<Step> step = planner_.compose(next_step_);
    if (!step.has_value()) return false;
    ++next_step_.value;
    steps.push_back(*step);
    engine_.submit(generation_, *std::move(step), [this](absl::StatusOr<StepResult> result) {
      if (result.ok()) results_.push_back(*std::move(result));  // Else it was lost with its generation.
    });
    return true;
  }
  void acknowledge() {
    ASSERT_TRUE(engine_.run_step());
    StepResult result = std::move(results_.front());
    results_.pop_front();
    for (StageTiming& timing : result.timings) timing.busy_ns += 100'000;
    if (tamper) tamper(result);
    const auto outcomes = planner_.acknowledge(result);
    ASSERT_TRUE(outcomes.ok()) << ToString(outcomes.status());
    for (const BatchPlanner::Outcome& one : *outcomes) {
      ASSERT_TRUE(one.status.ok()) << ToString(one.status);
      const Sequence& sequence = *planner_.find(one.id);
      const auto& ends = sequence.request.eos_ids;
      const auto end =
          std::ranges::find_if(one.tokens, [&](const auto& t) { return std::ranges::count(ends, t.id) > 0; });
      // An end comes last: behind it nothing is drafted.
      ASSERT_TRUE(end == one.tokens.end() || end + 1 == one.tokens.end());
      ASSERT_LE(sequence.generated(), sequence.request.max_tokens);
      if (end != one.tokens.end() || sequence.generated() == sequence.request.max_tokens) finish(one.id);
    }
    const absl::Status sound = planner_.verify();
    ASSERT_TRUE(sound.ok()) << ToString(sound);
  }
  void finish(SeqId id) {
    const Sequence& sequence = *planner_.find(id);
    const auto& prompt = sequence.request.prompt;
    const std::vector<int32_t> answer(sequence.tokens.begin() + std::ssize(prompt), sequence.tokens.end());
    EXPECT_EQ(answer,
              ExpectedTokens(model_, prompt, static_cast<int>(answer.size()), sequence.request.sampling))
        << "sequence " << id.value;
    texts[id] = sequence.tokens;
    planner_.end(id);
  }
  void run() {
    while (!planner_.live_ids().empty() || planner_.steps_in_flight() > 0) {
      while (planner_.steps_in_flight() < limits_.steps_in_flight && submit()) {
      }
      ASSERT_NO_FATAL_FAILURE(acknowledge());
    }
  }
  void lose() {
    EXPECT_THAT(planner_.lose_generation({.losses_in_a_row_max = 1000}), IsEmpty());
    engine_.recover(limits_);
    results_.clear();
    ++generation_;
    next_step_ = StepId{1};
    planner_.reset(limits_);
  }
  BatchPlanner& planner() { return planner_; }

  std::map<SeqId, std::vector<int32_t>> texts;  ///< Of those that have ended: prompt and answer.
  std::vector<Step> steps;
  std::function<void(StepResult&)> tamper;

 private:
  const NextTokenFn model_;
  std::deque<StepResult> results_;
  FakeEngine engine_;
  BatchPlanner planner_;
  const EngineLimits limits_;
  uint64_t next_sequence_ = 1;
  StepId next_step_{1};
  uint64_t generation_ = 1;
};

class SpeculationTest : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Plans, SpeculationTest, ::testing::ValuesIn(Cases()),
                         [](const auto& test) { return std::string(test.param.name); });

// Sequences come, end at once, at an end-of-text id or at their limit; the engine is lost; prompts go on with what
// others have written.
TEST_P(SpeculationTest, SequencesGetTheTokensTheyGetWithoutDrafts) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    RandomStream random(seed);
    Bench bench(GetParam(), 0.4 + 0.1 * static_cast<double>(seed % 6));
    for (int event = 0; event < 400; ++event) {
      const uint64_t kind = random.below(20);
      const auto live = bench.planner().live_ids();
      if (kind < 3 && live.size() < 12) {
        std::vector<int32_t> prompt = Text(random, 2 + random.below(60));
        if (!bench.texts.empty() && random.below(2) == 0) {
          const auto& before = std::next(bench.texts.begin(), random.below(bench.texts.size()))->second;
          prompt.insert(prompt.begin(), before.begin(), before.end());
        }
        const int64_t room = 200 - std::ssize(prompt);
        if (room < 2) continue;
        std::vector<int32_t> ends;
        if (random.below(2) == 0) ends = {kEnd, 7};
        bench.add(std::move(prompt), static_cast<int64_t>(1 + random.below(static_cast<uint64_t>(room - 1))),
                  ends);
      } else if (kind == 3 && !live.empty()) {
        bench.finish(live[random.below(live.size())]);
      } else if (kind == 4 && random.below(4) == 0) {
        bench.lose();
      } else if (kind % 2 == 0 && bench.planner().steps_in_flight() > 0) {
        ASSERT_NO_FATAL_FAILURE(bench.acknowledge());
      } else if (bench.planner().steps_in_flight() < GetParam().limits.steps_in_flight) {
        bench.submit();
      }
    }
    ASSERT_NO_FATAL_FAILURE(bench.run());
    EXPECT_GT(bench.planner().drafts().accepted, 0);
    EXPECT_GT(bench.planner().drafts().drafted, bench.planner().drafts().accepted);
    EXPECT_EQ(bench.planner().caches().pool().used_count(), bench.planner().caches().cached());
    for (const Step& step : bench.steps) EXPECT_LE(step.rows(), GetParam().options.rows_per_step);
  }
}

// A sequence ends where a wrong draft stands at the last position of its last block: nothing overwrites it.
TEST(Speculation, ABlockThatEndsWithAWrongDraftIsNotFoundByOthers) {
  int found = 0;
  for (uint64_t seed = 1; found < 3; ++seed) {
    ASSERT_LT(seed, 400u);
    RandomStream random(seed);
    Bench bench({"", kRoomy, {.draft_max = 8}}, 0.8);
    const SeqId id = bench.add(Text(random, 40 + seed % 32), 500);
    bool at_the_border = false;
    while (!at_the_border && bench.planner().find(id) != nullptr) {
      ASSERT_TRUE(bench.submit());
      const SeqSlice slice = bench.steps.back().slices[0];
      ASSERT_NO_FATAL_FAILURE(bench.acknowledge());
      if (bench.planner().find(id) == nullptr) break;
      const auto tokens = std::ssize(bench.planner().find(id)->tokens);
      const bool rejected = tokens <= slice.position + std::ssize(slice.tokens);
      at_the_border = slice.sample_from == 0 && rejected && tokens % kBlockPositions == 0;
    }
    if (!at_the_border) continue;
    ++found;
    bench.finish(id);
    std::vector<int32_t> next = bench.texts.at(id);
    next.insert(next.end(), {1, 2, 3});
    bench.add(next, 20);
    ASSERT_NO_FATAL_FAILURE(bench.run());  // The engine looks at what the blocks hold.
  }
}

// A text that lookup never finds, of which another run is on record.
TEST(Speculation, WhatIsExpectedTakesFewSteps) {
  RandomStream random(5);
  const std::vector<int32_t> prompt = Text(random, 20);
  SamplingParams sampling;
  sampling.seed = 1;  // Of the first sequence of a Bench.
  const std::vector<int32_t> whole = ExpectedTokens(CopyModel(0), prompt, 300, sampling);
  std::vector<int32_t> wrong = whole;
  wrong[100] = (wrong[100] + 1) % kVocabulary;
  const std::vector<int32_t> half(whole.begin(), whole.begin() + 150);
  const auto accepted = [&](const std::vector<int32_t>& expected) {
    Bench bench({"", kRoomy, {.draft_max = 8}}, 0);
    bench.add(prompt, 300, {}, expected);
    bench.run();
    return bench.planner().drafts().accepted;
  };
  EXPECT_LT(accepted({}), 10);
  EXPECT_GT(accepted(whole), 250);
  const int64_t of_wrong = accepted(wrong);
  EXPECT_TRUE(of_wrong > 70 && of_wrong <= 100)
      << of_wrong << ": what stands behind the wrong one is not tried";
  const int64_t of_half = accepted(half);
  EXPECT_TRUE(of_half > 110 && of_half < 160) << of_half;
}

TEST(Speculation, AFaithfulCopyTakesFewSteps) {
  Bench bench({"", kRoomy, {.draft_max = 15}}, 1);
  RandomStream random(3);
  bench.add(Text(random, 64), 640);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  EXPECT_LT(bench.steps.size(), 80u);
  const DraftTotals& totals = bench.planner().drafts();
  EXPECT_GT(totals.accepted, 550);
  EXPECT_EQ(totals.accepted + static_cast<int64_t>(bench.steps.size()),
            640);  // Each step gives one of its own.
}

TEST(Speculation, ATextThatRepeatsNothingIsHardlyEverDraftedFor) {
  Bench bench({"", kRoomy, {.draft_max = 16}}, 0);
  RandomStream random(3);
  bench.add(Text(random, 500), 1000);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  EXPECT_LT(bench.planner().drafts().drafted, 30);
}

/// The model's own head drafts a text that repeats nothing.
DraftTotals DraftedByHead(double right, int64_t& steps, int64_t& asked) {
  EngineLimits limits = kRoomy;
  limits.mtp = true;
  Bench bench({"", limits, {.draft_max = 8}}, 0, right);
  RandomStream random(3);
  bench.add(Text(random, 500), 1000);
  bench.run();
  steps = std::ssize(bench.steps);
  asked = std::ranges::count_if(bench.steps, [](const Step& step) { return step.slices[0].draft; });
  EXPECT_LE(bench.planner().mtp_drafts().drafted, bench.planner().drafts().drafted);
  return bench.planner().mtp_drafts();
}

TEST(Speculation, AHeadThatIsRightHalvesTheSteps) {
  int64_t steps = 0;
  int64_t asked = 0;
  const DraftTotals totals = DraftedByHead(1, steps, asked);
  EXPECT_EQ(totals.accepted, totals.drafted);
  EXPECT_GT(totals.accepted, 450);
  EXPECT_LT(steps, 560);
}

TEST(Speculation, AHeadThatIsWrongIsSeldomVerifiedAndSeldomAsked) {
  int64_t steps = 0;
  int64_t asked = 0;
  const DraftTotals totals = DraftedByHead(0, steps, asked);
  EXPECT_EQ(totals.accepted, 0);
  EXPECT_LT(totals.drafted, 60);
  EXPECT_LT(asked, 300);
}

TEST(Speculation, DraftsThatNobodyAskedForAreRefused) {
  for (const std::vector<int32_t>& drafted : {std::vector<int32_t>{1}, {1, 2}, {kVocabulary}, {-1}}) {
    EngineLimits limits = kRoomy;
    limits.mtp = drafted.size() > 1 || drafted[0] != 1;
    Bench bench({"", limits, {.draft_max = 8}}, 1);
    RandomStream random(3);
    const SeqId id = bench.add(Text(random, 40), 60);
    ASSERT_TRUE(bench.submit());
    const StepResult result{.id = bench.steps.back().id,
                            .sequences = {{.id = id, .tokens = {{5}}, .drafted = drafted}}};
    const auto refused = bench.planner().acknowledge(result);
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(Message(refused.status()), HasSubstr("drafted tokens"));
    ASSERT_NO_FATAL_FAILURE(bench.run());
  }
}

EngineLimits WithStates(int slots) {
  EngineLimits limits = kRoomy;
  limits.state_slots = slots;
  return limits;
}

TEST(Speculation, DraftsThatAreRightCostAModelThatKeepsStatesNoFurtherRows) {
  Bench bench({"", WithStates(16), {.draft_max = 8}}, 1);
  RandomStream random(3);
  bench.add(Text(random, 40), 400);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  EXPECT_LT(bench.steps.size(), 80u);
  int64_t rows = 0;
  for (const Step& step : bench.steps) rows += step.rows();
  EXPECT_EQ(rows, 439);  // All tokens but the last.
}

// The state behind the tokens that came as drafted was not kept: they are fed again, in the step of the next token.
TEST(Speculation, TokensBeforeAWrongDraftAreComputedAgainWhereTheirStateWasNotKept) {
  Bench bench({"", WithStates(3), {.draft_max = 8}}, 0.8);
  RandomStream random(3);
  bench.add(Text(random, 40), 400);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  int64_t again = 0;
  for (size_t i = 1; i < bench.steps.size(); ++i) {
    const SeqSlice& before = bench.steps[i - 1].slices[0];
    const SeqSlice& slice = bench.steps[i].slices[0];
    again += slice.sample_from;
    const int64_t sampled = std::ssize(before.tokens) - before.sample_from;
    EXPECT_LT(slice.sample_from, sampled) << "what is fed again came with the step before";
  }
  EXPECT_GT(again, 20);
}

// A slot is read, one is for the state before the draft, and one for that behind it.
TEST(Speculation, ADraftOfOneTokenCostsAModelThatKeepsStatesNoRowTwice) {
  EngineLimits limits = WithStates(3);
  limits.mtp = true;
  Bench bench({"", limits, {.draft_max = 1, .draft_when = DraftWhen::kAlways}}, 0, 0.5);
  RandomStream random(3);
  bench.add(Text(random, 40), 300);
  ASSERT_NO_FATAL_FAILURE(bench.run());
  const DraftTotals& totals = bench.planner().drafts();
  EXPECT_GT(totals.accepted, 50);
  EXPECT_GT(totals.drafted, totals.accepted + 50);
  for (size_t i = 1; i < bench.steps.size(); ++i) EXPECT_EQ(bench.steps[i].slices[0].sample_from, 0);
}

// The next turn starts at the last full block of the answer, as without drafts.
TEST(Speculation, DraftedAnswersLeaveStatesAtTheEndsOfBlocks) {
  constexpr int kDraftMax = 8;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    Bench bench({"", WithStates(16), {.draft_max = kDraftMax}}, 0.8);
    RandomStream random(seed);
    const SeqId id = bench.add(Text(random, 40), 150 + static_cast<int64_t>(random.below(64)));
    ASSERT_NO_FATAL_FAILURE(bench.run());
    ASSERT_GT(bench.planner().drafts().accepted, 20);
    std::vector<int32_t> next = bench.texts.at(id);
    const auto length = std::ssize(next);
    next.insert(next.end(), {1, 2, 3});
    bench.add(next, 5);
    ASSERT_TRUE(bench.submit());
    EXPECT_GE(bench.steps.back().slices[0].position,
              (length - 1 - kDraftMax) / kBlockPositions * kBlockPositions);
    ASSERT_NO_FATAL_FAILURE(bench.run());
  }
}

// A draft may hold what breaks the model where the text itself does not.
TEST(Speculation, ARowThatFailsAmongDraftsCostsTheSequenceItsDraftsOnly) {
  for (const Case& one : Cases()) {
    Bench bench(one, 0.9);
    RandomStream random(3);
    const SeqId fails = bench.add(Text(random, 40), 120);
    const SeqId other = bench.add(Text(random, 40), 120);
    int failures = 0;
    bench.tamper = [&](StepResult& result) {
      for (SeqResult& result_of : result.sequences) {
        if (result_of.id != fails || result_of.tokens.size() < 2) continue;
        result_of = {.id = fails, .status = absl::OutOfRangeError("a NaN")};
        ++failures;
      }
    };
    ASSERT_NO_FATAL_FAILURE(bench.run());
    EXPECT_EQ(failures, 1) << one.name;
    EXPECT_THAT(bench.texts, SizeIs(2)) << one.name;
    EXPECT_GT(bench.planner().drafts().accepted, 0) << one.name << other.value;
    const auto told = std::ranges::count_if(bench.steps, [&](const Step& step) {
      return std::ranges::count(step.begins, fails, &NewSequence::id) > 0;
    });
    EXPECT_GE(told, 2) << one.name;  // The workers remember that it failed until it begins again.
  }
}

TEST(Speculation, AResultMustHaveATokenForEachSampledRow) {
  Bench bench({"", kRoomy, {.draft_max = 8}}, 1);
  RandomStream random(3);
  const SeqId id = bench.add(Text(random, 40), 60);
  while (bench.steps.empty() || bench.steps.back().rows() != 4) {
    ASSERT_TRUE(bench.submit());
    if (bench.steps.back().slices[0].tokens.size() > 1 && bench.steps.size() > 1) break;
    ASSERT_NO_FATAL_FAILURE(bench.acknowledge());
  }
  const auto rows = bench.steps.back().slices[0].tokens.size();
  for (const size_t wrong : {size_t{1}, rows - 1, rows + 1}) {
    if (wrong == rows) continue;
    StepResult result{.id = bench.steps.back().id, .sequences = {{id, std::vector<SampledToken>(wrong)}}};
    const auto refused = bench.planner().acknowledge(result);
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(Message(refused.status()), HasSubstr(fmt::format("expected {}", rows)));
  }
  ASSERT_NO_FATAL_FAILURE(bench.run());
}

/// Counts what it is told of drafts.
class DraftSink : public RecordingSink {
 public:
  using RecordingSink::RecordingSink;
  void on_drafts(int choice, const DraftTotals& totals) override {
    EXPECT_FALSE(reason(choice).has_value());
    drafts[choice] = totals;
  }
  std::map<int, DraftTotals> drafts;  ///< By choice; read once the request has ended.
};

GenerationRequest Request(std::vector<int32_t> prompt, int64_t max_tokens) {
  return {.prompt = std::move(prompt), .max_tokens = max_tokens, .deadline = Deadline::after_ms(60'000)};
}

/// What a request gives, token by token, with its ends withheld as long as it says.
std::vector<int32_t> Answer(const NextTokenFn& model, const GenerationRequest& request) {
  std::vector<int32_t> tokens = request.prompt;
  const auto prompt = std::ssize(tokens);
  while (std::ssize(tokens) - prompt < request.max_tokens) {
    SamplingParams sampling = request.sampling;
    const bool withheld = std::ssize(tokens) - prompt < request.min_tokens && !request.ignore_eos;
    if (withheld) sampling.logit_bias = {{kEnd, -1000.0f}};
    const int32_t next = model(tokens, static_cast<int32_t>(prompt), sampling);
    if (!request.ignore_eos && std::ranges::count(request.eos_ids, next) > 0) break;
    tokens.push_back(next);
  }
  return {tokens.begin() + prompt, tokens.end()};
}

// Over a scheduler: ends of text, min_tokens, log-probabilities, sinks that have enough, several choices.
TEST(Speculation, RequestsEndWhereTheyEndWithoutDrafts) {
  const NextTokenFn model = CopyModel(0.8);
  for (const int steps_in_flight : {1, 3}) {
    EngineLimits limits = kRoomy;
    limits.steps_in_flight = steps_in_flight;
    FakeEngine engine({.limits = limits, .step_time = std::chrono::microseconds(200)}, model);
    Scheduler scheduler(engine, {.batch = {.rows_per_step = 64, .draft_max = 8}});
    RandomStream random(11);
    std::vector<GenerationRequest> requests;
    std::vector<std::shared_ptr<DraftSink>> sinks;
    for (int i = 0; i < 40; ++i) {
      GenerationRequest request = Request(Text(random, 10 + random.below(50)), 100);
      request.sampling.seed = random.bits();
      request.sampling.top_logprobs = i % 4 == 0 ? 2 : kNoLogprobs;
      request.eos_ids = {kEnd};
      request.ignore_eos = i % 5 == 0;
      request.min_tokens = i % 3 == 0 ? static_cast<int64_t>(random.below(90)) : 0;
      requests.push_back(request);
      sinks.push_back(std::make_shared<DraftSink>(i % 7 == 0 ? 30 : -1));
      ASSERT_TRUE(scheduler.submit(std::move(request), sinks.back()).ok());
    }
    DraftTotals told;
    for (size_t i = 0; i < sinks.size(); ++i) {
      ASSERT_TRUE(sinks[i]->wait_end()) << i;
      ASSERT_TRUE(sinks[i]->error().ok()) << ToString(sinks[i]->error());
      const std::vector<int32_t> expected = Answer(model, requests[i]);
      std::vector<int32_t> got = sinks[i]->tokens();
      EXPECT_LE(got.size(), expected.size());
      got.resize(std::min(got.size(), expected.size()));
      EXPECT_TRUE(std::ranges::equal(got, std::span(expected).first(got.size()))) << i;
      if (i % 7 != 0) {
        EXPECT_EQ(sinks[i]->tokens(), expected) << i;
      }
      for (const SampledToken& token : sinks[i]->sampled()) {
        if (i % 4 == 0) {
          EXPECT_EQ(token, WithLogprobs(token.id, 2));
        }
      }
      EXPECT_FALSE(sinks[i]->late());
      const DraftTotals& drafts = sinks[i]->drafts[0];
      EXPECT_LE(drafts.accepted, drafts.drafted);
      told.drafted += drafts.drafted;
      told.accepted += drafts.accepted;
    }
    EXPECT_GT(told.accepted, 0);
    const SchedulerStats stats = scheduler.stats();
    EXPECT_EQ(stats.drafts.drafted, told.drafted);
    EXPECT_EQ(stats.drafts.accepted, told.accepted);
    EXPECT_THAT(engine.violations(), IsEmpty());
  }
}

}  // namespace
}  // namespace shoal
