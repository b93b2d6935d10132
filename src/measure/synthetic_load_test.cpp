#include "measure/synthetic_load.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>

#include "base/status.h"
#include "kv/block_pool.h"

namespace shoal {
namespace {

/// Holds steps back until `hold` are in flight, then answers all, the oldest first. The token after position
/// p of a sequence is p + 1000 * sequence.
class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(EngineLimits limits) : limits_(limits) {}

  State state() const override { return {.generation = 1, .limits = limits_}; }
  void give_up(uint64_t, const absl::Status&) override {}
  void send_masks(uint64_t, StepId, std::span<const TokenMask>) override {}
  void set_state_listener(std::function<void()>) override {}
  void submit(uint64_t generation, Step step, StepDone done) override {
    EXPECT_EQ(generation, 1u);
    EXPECT_EQ(step.id.value, steps.size() + 1);
    steps.push_back(step);
    out_.emplace_back(std::move(step), std::move(done));
    out_max = std::max(out_max, out_.size());
    if (std::ssize(out_) == hold) answer();
  }
  void answer() {
    while (!out_.empty()) {
      auto [step, done] = std::move(out_.front());
      out_.pop_front();
      if (step.id == failing) return done(Unavailable("node 'b' is away"));
      if (step.id == bad) {
        done(StepResult{.id = step.id, .sequences = {{step.slices[0].id, {}, OutOfRange("not finite")}}});
        continue;
      }
      StepResult result{.id = step.id};
      for (const SeqSlice& slice : step.slices) {
        if (slice.sample_from != kNoSample) result.sequences.push_back({slice.id, {{TokenAfter(slice)}}});
      }
      result.timings = {{NodeId{0}, 5, 0, 0, 0}, {NodeId{1}, 7, 0, 0, 0}};
      if (step.want_routing) result.routing = {{LayerId{0}, 2, {3, 4, 4, 5}}, {LayerId{1}, 2, {1, 2, 1, 2}}};
      done(std::move(result));
    }
  }
  static int32_t TokenAfter(const SeqSlice& slice) {
    return slice.position + static_cast<int32_t>(slice.tokens.size()) - 1 +
           1000 * static_cast<int32_t>(slice.id.value);
  }

  std::vector<Step> steps;
  size_t out_max = 0;
  int64_t hold = 1;  ///< Steps in flight before the first is answered.
  StepId failing;
  StepId bad;  ///< In which a sequence fails.

 private:
  const EngineLimits limits_;
  std::deque<std::pair<Step, StepDone>> out_;
};

constexpr EngineLimits kLimits{.blocks = 64, .context = 1024, .steps_in_flight = 1, .vocabulary = 9000};

TEST(SyntheticLoad, APromptIsCutIntoChunksAndSampledOnce) {
  FakeEngine engine(kLimits);
  SyntheticLoad load(engine, {.chunk_rows = [](int64_t) { return 100; }});
  const auto run = load.prefill(250, false);
  ASSERT_TRUE(run.ok()) << ToString(run.status());
  ASSERT_EQ(engine.steps.size(), 3u);
  int64_t at = 0;
  for (const Step& step : engine.steps) {
    ASSERT_EQ(step.slices.size(), 1u);
    const SeqSlice& slice = step.slices[0];
    EXPECT_EQ(slice.position, at);
    at += std::ssize(slice.tokens);
    EXPECT_LE(slice.tokens.size(), 100u);
    EXPECT_GE(std::ssize(slice.blocks), BlocksFor(at));
    EXPECT_EQ(slice.sample_from != kNoSample, at == 250);
    EXPECT_EQ(step.begins.size(), slice.position == 0 ? 1u : 0u);
    for (const int32_t token : slice.tokens) EXPECT_TRUE(0 <= token && token < kLimits.vocabulary);
  }
  EXPECT_EQ(at, 250);
  EXPECT_EQ(run->tokens, 250);
  EXPECT_EQ(run->size.steps, 3);
  EXPECT_EQ(run->size.rows, 250);
  EXPECT_EQ(run->size.sampled, 1);
  EXPECT_EQ(run->size.cached, 100 + 200 + 250);
  EXPECT_EQ(run->size.attended, 250 * 251 / 2);
  EXPECT_EQ(run->busy_ns, (std::map<NodeId, int64_t>{{NodeId{0}, 15}, {NodeId{1}, 21}}));
}

TEST(SyntheticLoad, AsManyChunksAreInFlightAsTheEngineAsksFor) {
  EngineLimits limits = kLimits;
  limits.steps_in_flight = 3;
  FakeEngine engine(limits);
  engine.hold = 3;
  SyntheticLoad load(engine, {.chunk_rows = [](int64_t) { return 10; }});
  ASSERT_EQ(load.prefill(90, false).status(), absl::OkStatus());
  EXPECT_EQ(engine.out_max, 3u);
}

TEST(SyntheticLoad, DecodeCountsEveryTokenOfTheRun) {
  FakeEngine engine(kLimits);
  SyntheticLoad load(engine, {});
  ASSERT_EQ(load.fill(3, 40, 5), absl::OkStatus());
  const auto run = load.decode(5, 1, false);
  ASSERT_TRUE(run.ok()) << ToString(run.status());
  EXPECT_EQ(run->tokens, 15);
  EXPECT_EQ(run->size.steps, 5);
  EXPECT_EQ(run->size.rows, 15);
  EXPECT_EQ(run->size.sampled, 15);
  EXPECT_EQ(run->size.cached, 3 * (41 + 42 + 43 + 44 + 45));
  EXPECT_EQ(run->size.attended, run->size.cached);
  EXPECT_EQ(run->size.experts, 0);
}

TEST(SyntheticLoad, TheSampledTokenIsTheNextInput) {
  FakeEngine engine(kLimits);
  SyntheticLoad load(engine, {});
  ASSERT_EQ(load.fill(2, 40, 3), absl::OkStatus());
  const size_t filled = engine.steps.size();
  ASSERT_TRUE(load.decode(3, 1, false).ok());
  ASSERT_TRUE(load.decode(3, 1, false).ok());
  ASSERT_EQ(engine.steps.size(), filled + 6);
  std::map<SeqId, int32_t> expected;
  for (size_t i = filled; i < engine.steps.size(); ++i) {
    const bool fresh = (i - filled) % 3 == 0;  // Every run decodes the same positions again.
    EXPECT_EQ(engine.steps[i].begins.size(), fresh ? 2u : 0u);
    for (const SeqSlice& slice : engine.steps[i].slices) {
      EXPECT_EQ(slice.position, 40 + static_cast<int32_t>((i - filled) % 3));
      EXPECT_EQ(slice.sample_from, 0);
      if (!fresh) {
        EXPECT_EQ(slice.tokens, std::vector<int32_t>{expected[slice.id]});
      }
      expected[slice.id] = FakeEngine::TokenAfter(slice);
    }
  }
}

TEST(SyntheticLoad, GroupsTakeTurnsAndAllAreInFlight) {
  FakeEngine engine(kLimits);
  SyntheticLoad load(engine, {});
  ASSERT_EQ(load.fill(5, 32, 4), absl::OkStatus());
  const size_t filled = engine.steps.size();
  engine.hold = 2;
  const auto run = load.decode(4, 2, false);
  ASSERT_TRUE(run.ok()) << ToString(run.status());
  EXPECT_EQ(engine.out_max, 2u);
  EXPECT_EQ(run->tokens, 20);
  EXPECT_EQ(run->size.steps, 8);
  for (size_t i = filled; i < engine.steps.size(); ++i) {
    std::set<SeqId> ids;
    for (const SeqSlice& slice : engine.steps[i].slices) ids.insert(slice.id);
    const std::set<SeqId> even = {SeqId{1}, SeqId{2}};
    const std::set<SeqId> odd = {SeqId{3}, SeqId{4}, SeqId{5}};
    EXPECT_EQ(ids, (i - filled) % 2 == 0 ? even : odd);
  }
}

TEST(SyntheticLoad, ALongContextIsFilledInChunksThatTileItsBlocks) {
  FakeEngine engine(kLimits);
  SyntheticLoad load(engine, {.fill_chunk = 64});
  ASSERT_EQ(load.fill(1, 150, 10), absl::OkStatus());
  std::vector<BlockId> blocks;
  int64_t rows = 0;
  for (const Step& step : engine.steps) {
    const SeqSlice& slice = step.slices[0];
    EXPECT_EQ(slice.position, 0);
    EXPECT_EQ(slice.sample_from, kNoSample);
    EXPECT_EQ(std::ssize(slice.blocks), BlocksFor(std::ssize(slice.tokens)));
    rows += std::ssize(slice.tokens);
    blocks.insert(blocks.end(), slice.blocks.begin(), slice.blocks.end());
  }
  EXPECT_EQ(rows, 150);
  ASSERT_TRUE(load.decode(10, 1, false).ok());
  const SeqSlice& last = engine.steps.back().slices[0];
  EXPECT_EQ(last.position, 159);
  EXPECT_EQ(last.blocks, blocks);
  EXPECT_EQ(std::set(blocks.begin(), blocks.end()).size(), blocks.size());
}

TEST(SyntheticLoad, SequencesShareNoBlock) {
  FakeEngine engine(kLimits);
  SyntheticLoad load(engine, {});
  ASSERT_EQ(load.fill(4, 33, 40), absl::OkStatus());
  ASSERT_TRUE(load.decode(40, 1, false).ok());
  std::set<BlockId> seen;
  size_t count = 0;
  for (const SeqSlice& slice : engine.steps.back().slices) {
    seen.insert(slice.blocks.begin(), slice.blocks.end());
    count += slice.blocks.size();
  }
  EXPECT_EQ(seen.size(), count);
  EXPECT_EQ(static_cast<int64_t>(count) * kBlockPositions, SyntheticLoad::DecodePositions(4, 33, 40));
}

TEST(SyntheticLoad, TracedRoutingCountsDistinctExpertsPerLayer) {
  FakeEngine engine(kLimits);
  SyntheticLoad load(engine, {});
  ASSERT_EQ(load.fill(2, 32, 4), absl::OkStatus());
  const auto run = load.decode(4, 1, true);
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(run->size.experts, 4 * (3 + 2));
}

TEST(SyntheticLoad, RefusesSequencesThatDoNotFitTheCache) {
  FakeEngine engine(kLimits);
  SyntheticLoad load(engine, {});
  EXPECT_EQ(load.prefill(1025, false).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(load.fill(9, 200, 56).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(engine.steps.empty());
}

TEST(SyntheticLoad, AFailedStepEndsTheRunWithItsError) {
  FakeEngine engine(kLimits);
  engine.failing = StepId{2};
  SyntheticLoad load(engine, {.chunk_rows = [](int64_t) { return 10; }});
  EXPECT_EQ(load.prefill(40, false).status(), Unavailable("node 'b' is away"));
}

TEST(SyntheticLoad, AFailedSequenceEndsTheRunWithItsError) {
  FakeEngine engine(kLimits);
  engine.bad = StepId{2};
  SyntheticLoad load(engine, {.chunk_rows = [](int64_t) { return 10; }});
  EXPECT_EQ(load.prefill(40, false).status(), OutOfRange("not finite"));
}

}  // namespace
}  // namespace shoal
