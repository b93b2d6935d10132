// Requests whose text must match something: the tokens are those of a plain loop over model and constraint, however
// steps are composed, lost and composed again, and masks never hold up the scheduler.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>

#include "base/random.h"
#include "base/status.h"
#include "sched/scheduler.h"
#include "sched/testing/fake_engine.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kVocabulary = 101;
constexpr int32_t kEos = 100;

/// Which ids may come is a hash of all ids so far, often one alone; behind `length` of them, the end alone.
class HashConstraint final : public TokenConstraint {
 public:
  struct Options {
    int64_t length = 1'000'000;
    int64_t fails_at = -1;  ///< mask() behind so many ids is an error.
    int64_t work_max =
        1'000'000;  ///< So is a call of consume() behind as many, those that were taken back included.
    std::shared_future<void> gate = {};              ///< mask() waits for it, where it is set.
    std::shared_ptr<std::atomic<int>> entered = {};  ///< Counts mask() calls.
  };
  explicit HashConstraint(Options options) : options_(std::move(options)) {}

  absl::Status mask(std::vector<uint32_t>& words) override {
    if (options_.entered != nullptr) ++*options_.entered;
    if (options_.gate.valid()) options_.gate.wait();
    if (taken() == options_.fails_at) return InvalidArgument("grammar: too many states");
    words.assign((kVocabulary + 31) / 32, 0);
    for (int32_t id = 0; id < kVocabulary; ++id) {
      if (allows(id)) words[static_cast<size_t>(id / 32)] |= uint32_t{1} << (id % 32);
    }
    return absl::OkStatus();
  }
  absl::Status consume(int32_t token) override {
    if (!allows(token)) return InvalidArgument("token {} may not come", token);
    if (++work_ > options_.work_max) return InvalidArgument("grammar: too much work");
    hashes_.push_back(Mix64(hashes_.back() ^ static_cast<uint64_t>(token)));
    return absl::OkStatus();
  }
  absl::Status rewind(int64_t count) override {
    if (count > taken()) return InvalidArgument("only {} tokens were taken", taken());
    hashes_.resize(hashes_.size() - static_cast<size_t>(count));
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<int32_t>> forced() override {
    std::vector<int32_t> tokens;
    HashConstraint ahead = *this;
    while (ahead.forces() && ahead.taken() < options_.length) {
      tokens.push_back(ahead.only());
      RETURN_IF_ERROR(ahead.consume(tokens.back()));
    }
    return tokens;
  }
  absl::StatusOr<std::unique_ptr<TokenConstraint>> clone() const override {
    return std::make_unique<HashConstraint>(*this);
  }
  bool allows(int32_t id) const {
    if (taken() >= options_.length) return id == kEos;
    if (forces()) return id == only();
    return id != kEos && Mix64(hashes_.back() ^ static_cast<uint64_t>(1000 + id)) % 6 == 0;
  }

 private:
  int64_t taken() const { return std::ssize(hashes_) - 1; }
  bool forces() const { return hashes_.back() % 8 < 5; }
  int32_t only() const { return static_cast<int32_t>(hashes_.back() / 8 % kEos); }

  Options options_;
  std::vector<uint64_t> hashes_ = {1};  // Behind each token.
  int64_t work_ = 0;
};

GenerationRequest Request(std::vector<int32_t> prompt, int64_t max_tokens) {
  return {.prompt = std::move(prompt),
          .max_tokens = max_tokens,
          .eos_ids = {kEos},
          .deadline = Deadline::after_ms(60'000)};
}

GenerationRequest Constrained(std::vector<int32_t> prompt, int64_t max_tokens,
                              HashConstraint::Options options = {}) {
  GenerationRequest request = Request(std::move(prompt), max_tokens);
  request.constraint = std::make_shared<HashConstraint>(std::move(options));
  return request;
}

/// What the request must give: the model's id, or the next one that may come.
std::vector<int32_t> Expected(const GenerationRequest& request, HashConstraint::Options options = {}) {
  const NextTokenFn model = HashModel(kVocabulary);
  HashConstraint constraint(std::move(options));
  std::vector<int32_t> tokens = request.prompt;
  const auto prompt = std::ssize(request.prompt);
  while (std::ssize(tokens) - prompt < request.max_tokens) {
    int32_t next = model(tokens, static_cast<int32_t>(prompt), request.sampling);
    while (request.constraint != nullptr && !constraint.allows(next)) next = (next + 1) % kVocabulary;
    if (next == kEos) break;
    if (request.constraint != nullptr) {
      EXPECT_TRUE(constraint.consume(next).ok());
    }
    tokens.push_back(next);
  }
  return {tokens.begin() + prompt, tokens.end()};
}

std::vector<int32_t> RandomPrompt(RandomStream& random, size_t length) {
  std::vector<int32_t> prompt(length);
  for (int32_t& token : prompt) token = static_cast<int32_t>(random.below(kVocabulary));
  return prompt;
}

bool Eventually(const std::function<bool()>& condition) {
  const Deadline deadline = Deadline::after_ms(30'000);
  while (!condition()) {
    if (deadline.expired()) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

struct MixCase {
  const char* name;
  EngineLimits limits;
  int losses = 0;
  int draft_max = 0;  // Of drafts, which are then always verified.
  int64_t work_max = 1'000'000;
};

/// Half of what comes, and then what does not.
std::vector<int32_t> HalfRight(std::vector<int32_t> tokens) {
  for (size_t i = tokens.size() / 2; i < tokens.size(); ++i) tokens[i] = (tokens[i] + 1) % kEos;
  return tokens;
}

void PrintTo(const MixCase& mix, std::ostream* out) { *out << mix.name; }

class ConstraintMix : public ::testing::TestWithParam<MixCase> {};

TEST_P(ConstraintMix, StreamsGetTheTokensOfAPlainLoop) {
  const MixCase& mix = GetParam();
  FakeEngine engine({.limits = mix.limits, .step_time = milliseconds(mix.losses > 0 ? 1 : 0)});
  Scheduler scheduler(engine, {.batch = {.rows_per_step = 64,
                                         .sequences_max = 32,
                                         .draft_max = mix.draft_max,
                                         .draft_when = DraftWhen::kAlways}});
  engine.hold(mix.losses == 0);
  RandomStream random(7);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 32; ++i) {
    std::vector<int32_t> prompt = RandomPrompt(random, 1 + random.below(60));
    const auto most = static_cast<int64_t>(1 + random.below(80));
    const HashConstraint::Options options = {.work_max = mix.work_max};
    requests.push_back(i % 2 == 0 ? Constrained(std::move(prompt), most, options)
                                  : Request(std::move(prompt), most));
    requests.back().sampling.seed = random.bits();
    if (mix.draft_max > 0) requests.back().expected = HalfRight(Expected(requests.back()));
    sinks.push_back(std::make_shared<RecordingSink>());
    ASSERT_TRUE(scheduler.submit(requests.back(), sinks.back()).ok());
  }
  engine.hold(false);
  for (int loss = 0; loss < mix.losses; ++loss) {
    ASSERT_TRUE(sinks[static_cast<size_t>(2 * loss)]->wait_tokens(1));
    engine.lose(Unavailable("node 'b' is away"));
    engine.recover(mix.limits);
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    ASSERT_TRUE(sinks[i]->wait_end()) << i;
    ASSERT_TRUE(sinks[i]->error().ok()) << ToString(sinks[i]->error());
    EXPECT_EQ(sinks[i]->tokens(), Expected(requests[i])) << "stream " << i;
  }
  EXPECT_THAT(engine.violations(), IsEmpty());
  EXPECT_GT(engine.masks(), 16);
  if (mix.limits.blocks < 32) {
    EXPECT_GT(scheduler.stats().preemptions, 0);
  }
  if (mix.losses > 0) {
    EXPECT_GT(scheduler.stats().restarts, 0);
  }
  if (mix.draft_max > 0) {
    EXPECT_GT(scheduler.stats().drafts.accepted, 100);
    EXPECT_LT(scheduler.stats().drafts.accepted, scheduler.stats().drafts.drafted);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Mixes, ConstraintMix,
    ::testing::Values(
        MixCase{"roomy", {.blocks = 512, .context = 2048, .steps_in_flight = 1, .vocabulary = kVocabulary}},
        MixCase{"pipeline",
                {.blocks = 512, .context = 2048, .steps_in_flight = 4, .vocabulary = kVocabulary}},
        MixCase{"tight_cache",
                {.blocks = 8, .context = 2048, .steps_in_flight = 2, .vocabulary = kVocabulary}},
        MixCase{"long_rope",
                {.blocks = 512,
                 .context = 2048,
                 .steps_in_flight = 3,
                 .vocabulary = kVocabulary,
                 .short_rope_positions = 70}},
        MixCase{
            "losses", {.blocks = 512, .context = 2048, .steps_in_flight = 3, .vocabulary = kVocabulary}, 4},
        MixCase{"drafts",
                {.blocks = 512, .context = 2048, .steps_in_flight = 1, .vocabulary = kVocabulary},
                0,
                8},
        MixCase{"drafts_in_a_tight_cache",
                {.blocks = 8, .context = 2048, .steps_in_flight = 2, .vocabulary = kVocabulary},
                0,
                8},
        MixCase{"drafts_and_losses",
                {.blocks = 512, .context = 2048, .steps_in_flight = 3, .vocabulary = kVocabulary},
                4,
                8},
        MixCase{"drafts_with_states",
                {.blocks = 512,
                 .context = 2048,
                 .steps_in_flight = 2,
                 .vocabulary = kVocabulary,
                 .state_slots = 12},
                2,
                8},
        // As many as the longest text needs, and fewer than one that looks ahead takes.
        MixCase{"drafts_that_reach_a_limit",
                {.blocks = 512, .context = 2048, .steps_in_flight = 1, .vocabulary = kVocabulary},
                0,
                8,
                80}),
    [](const auto& mix) { return std::string(mix.param.name); });

TEST(Constraint, ACompleteTextEndsWithStopEvenIfTheEndIsToBeIgnored) {
  FakeEngine engine({});
  Scheduler scheduler(engine, {});
  for (const bool ignore_eos : {false, true}) {
    GenerationRequest request = Constrained({1, 2, 3}, 50, {.length = 9});
    request.ignore_eos = ignore_eos;
    const auto sink = std::make_shared<RecordingSink>();
    ASSERT_TRUE(scheduler.submit(request, sink).ok());
    ASSERT_TRUE(sink->wait_end());
    EXPECT_EQ(sink->reason(), FinishReason::kStop);
    EXPECT_EQ(sink->tokens(), Expected(request, {.length = 9}));
    EXPECT_EQ(sink->tokens().size(), 9u);
  }
}

TEST(Constraint, OneThatFailsEndsItsRequestAlone) {
  FakeEngine engine({});
  Scheduler scheduler(engine, {});
  const GenerationRequest broken = Constrained({1, 2, 3}, 50, {.fails_at = 4});
  const GenerationRequest whole = Constrained({4, 5}, 50);
  const auto broken_sink = std::make_shared<RecordingSink>();
  const auto whole_sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(broken, broken_sink).ok());
  ASSERT_TRUE(scheduler.submit(whole, whole_sink).ok());
  ASSERT_TRUE(broken_sink->wait_end());
  ASSERT_TRUE(whole_sink->wait_end());
  EXPECT_EQ(broken_sink->tokens().size(), 4u);
  EXPECT_EQ(broken_sink->error().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(broken_sink->error()), HasSubstr("too many states"));
  EXPECT_EQ(whole_sink->tokens(), Expected(whole));
}

TEST(Constraint, TheStepGoesOutBeforeItsMaskIsKnown) {
  FakeEngine engine({});
  Scheduler scheduler(engine, {});
  std::promise<void> gate;
  const GenerationRequest request = Constrained({1, 2, 3}, 5, {.gate = gate.get_future().share()});
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(request, sink).ok());
  EXPECT_TRUE(Eventually([&] { return engine.in_flight() == 1; }));
  EXPECT_THAT(sink->tokens(), IsEmpty());
  gate.set_value();
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->tokens(), Expected(request));
}

TEST(Constraint, AStepGetsTheMasksOfRequestsThatEndMeanwhile) {
  FakeEngine engine({});
  Scheduler scheduler(engine, {});
  std::promise<void> gate;
  const auto gone = std::make_shared<RecordingSink>();
  const auto stays = std::make_shared<RecordingSink>();
  const GenerationRequest plain = Request({4, 5}, 5);
  const auto id = scheduler.submit(Constrained({1, 2, 3}, 5, {.gate = gate.get_future().share()}), gone);
  ASSERT_TRUE(id.ok());
  EXPECT_TRUE(Eventually([&] { return engine.in_flight() == 1; }));
  ASSERT_TRUE(scheduler.submit(plain, stays).ok());
  scheduler.cancel(*id);
  ASSERT_TRUE(gone->wait_end());
  gate.set_value();
  ASSERT_TRUE(stays->wait_end());  // Its step comes behind the one that waits for the mask.
  EXPECT_EQ(stays->tokens(), Expected(plain));
  EXPECT_THAT(engine.violations(), IsEmpty());
}

TEST(Constraint, AMaskOutlivesTheStepThatWasLostWithIt) {
  FakeEngine engine({});
  Scheduler scheduler(engine, {});
  std::promise<void> gate;
  const auto computed = std::make_shared<std::atomic<int>>(0);
  const GenerationRequest request =
      Constrained({1, 2, 3}, 3, {.gate = gate.get_future().share(), .entered = computed});
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(scheduler.submit(request, sink).ok());
  EXPECT_TRUE(Eventually([&] { return engine.in_flight() == 1; }));
  engine.lose(Unavailable("node 'b' is away"));
  EXPECT_TRUE(Eventually([&] { return scheduler.stats().restarts == 1; }));
  gate.set_value();
  engine.recover({.blocks = 64, .context = 2048, .steps_in_flight = 1, .vocabulary = kVocabulary});
  ASSERT_TRUE(sink->wait_end());
  EXPECT_EQ(sink->tokens(), Expected(request));
  EXPECT_EQ(computed->load(), 3);  // One for each token.
}

TEST(MaskPool, StopWaitsForWhatHasBegunAndThenNothingBegins) {
  std::atomic<int> ran{0};
  std::promise<void> gate;
  const std::shared_future<void> open = gate.get_future().share();
  MaskPool pool(2);
  for (int i = 0; i < 2; ++i) {
    pool.post([&] {
      ++ran;
      open.wait();
      ran += 10;
    });
  }
  EXPECT_TRUE(Eventually([&] { return ran == 2; }));  // Both at once.
  gate.set_value();
  pool.stop();
  EXPECT_EQ(ran.load(), 22);
  pool.post([&] { ran += 100; });
  EXPECT_EQ(ran.load(), 22);
}

}  // namespace
}  // namespace shoal
