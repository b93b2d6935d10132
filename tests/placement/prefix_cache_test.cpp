// Sequences that start from what others have computed have the tokens that they have without: every family, on
// one node and several, with a cache so small that blocks are evicted and sequences preempted all the time.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "placement/placed_cluster.h"
#include "sched/scheduler.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

/// A model, and what is asked of it.
class Talks {
 public:
  explicit Talks(const OpenedModel& model) : model_(model) {}

  struct Result {
    std::vector<std::vector<int32_t>> answers;
    SchedulerStats stats;
  };

  /// Turns of a conversation, each with the answers before it; then a burst of prompts with one head, two of
  /// them the same; then turns of two conversations at once, which cross short rope where the model has it.
  Result run(const Placed& placed, bool prefix_cache, int32_t blocks) {
    PlacedCluster cluster(model_, placed, blocks, 1);
    Scheduler scheduler(cluster.engine(), {.batch = {.rows_per_step = 40, .prefix_cache = prefix_cache}});
    Result result;
    std::vector<int32_t> talk = text(1, 75);
    for (uint64_t turn = 0; turn < 3; ++turn) {
      ask(scheduler, {talk}, result.answers);
      if (testing::Test::HasFatalFailure()) return result;
      append(talk, result.answers.back());
      append(talk, text(10 + turn, 9));
    }
    std::vector<std::vector<int32_t>> burst;
    for (const uint64_t tail : {20, 21, 22, 20}) {
      burst.push_back(text(1, 66));
      append(burst.back(), text(tail, 11));
    }
    ask(scheduler, burst, result.answers);
    std::vector<int32_t> other = text(2, 40);
    for (uint64_t turn = 0; turn < 3; ++turn) {
      ask(scheduler, {talk, other}, result.answers);
      if (testing::Test::HasFatalFailure()) return result;
      append(other, result.answers.back());
      append(other, text(30 + turn, 21));
      talk.resize(90);
      append(talk, text(40 + turn, 33));
    }
    result.stats = scheduler.stats();
    return result;
  }

 private:
  std::vector<int32_t> text(uint64_t seed, size_t tokens) const {
    RandomStream random(seed);
    std::vector<int32_t> ids(tokens);
    for (int32_t& id : ids)
      id = static_cast<int32_t>(random.below(static_cast<uint64_t>(model_.spec.vocabulary)));
    return ids;
  }
  static void append(std::vector<int32_t>& tokens, const std::vector<int32_t>& more) {
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  /// All at once; waits for the answers.
  static void ask(Scheduler& scheduler, const std::vector<std::vector<int32_t>>& prompts,
                  std::vector<std::vector<int32_t>>& answers) {
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (const std::vector<int32_t>& prompt : prompts) {
      GenerationRequest request;
      request.prompt = prompt;
      request.max_tokens = 13;
      request.sampling.seed = 7;
      request.deadline = Deadline::after_ms(600'000);
      sinks.push_back(std::make_shared<RecordingSink>());
      const auto id = scheduler.submit(std::move(request), sinks.back());
      ASSERT_TRUE(id.ok()) << ToString(id.status());
    }
    for (const auto& sink : sinks) {
      int waits = 0;
      while (!sink->wait_end()) ASSERT_LT(++waits, 20);  // A crowded machine is slow.
      ASSERT_TRUE(sink->error().ok()) << ToString(sink->error());
      answers.push_back(sink->tokens());
    }
  }

  const OpenedModel& model_;
};

class PrefixCachePlacement : public ::testing::TestWithParam<CachedFamily> {};

TEST_P(PrefixCachePlacement, TheTokensAreThoseWithoutIt) {
  const auto model = OpenModel(TinyCheckpoint(GetParam().family, AffineFormat{4, 64}));
  ASSERT_TRUE(model.ok()) << ToString(model.status());
  Talks talks(*model);
  const Talks::Result expected = talks.run(Placements(GetParam().kv)[0], false, 64);
  ASSERT_EQ(expected.answers.size(), 13u);  // 3 turns, 4 of the burst, 3 times 2.
  EXPECT_EQ(expected.stats.prefix_cache.tokens_reused, 0);
  for (const size_t placement : {0, 1, 3}) {
    const Placed placed = Placements(GetParam().kv)[placement];
    SCOPED_TRACE(placed.name);
    const Talks::Result roomy = talks.run(placed, true, 64);
    EXPECT_EQ(roomy.answers, expected.answers);
    EXPECT_GT(roomy.stats.prefix_cache.tokens_reused, 400);
    EXPECT_EQ(roomy.stats.rows + roomy.stats.prefix_cache.tokens_reused, expected.stats.rows);
    if (HasFailure() || placement == 3) return;
    const Talks::Result tight = talks.run(placed, true, 11);
    EXPECT_EQ(tight.answers, expected.answers);
    EXPECT_GT(tight.stats.prefix_cache.evictions, 0);
    EXPECT_GT(tight.stats.prefix_cache.hits, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PrefixCachePlacement, testing::ValuesIn(CachedFamilies()),
                         [](const auto& cached) { return cached.param.name(); });

}  // namespace
}  // namespace shoal
