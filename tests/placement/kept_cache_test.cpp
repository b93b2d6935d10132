// A cluster that is rebuilt while sequences run, with its layers where they were, or on other nodes: every family goes on
// with the tokens of an undisturbed run, and computes no more again than what was not whole.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "placement/placed_cluster.h"
#include "sched/scheduler.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

constexpr int64_t kRowsPerStep = 40;
constexpr int kSequences = 3;

struct Outcome {
  std::vector<std::vector<int32_t>> answers;
  SchedulerStats stats;
  int reopenings = 0;
};

GenerationRequest RequestOf(const OpenedModel& model, int index) {
  RandomStream random(static_cast<uint64_t>(index));
  GenerationRequest request;
  request.prompt.resize(static_cast<size_t>(70 + 9 * index));
  for (int32_t& id : request.prompt) {
    id = static_cast<int32_t>(random.below(static_cast<uint64_t>(model.spec.vocabulary)));
  }
  request.max_tokens = 40;
  request.sampling.seed = 7;
  request.sampling.temperature = index == 0 ? 0 : 0.8f;
  request.deadline = Deadline::after_ms(600'000);
  return request;
}

/// The cluster is rebuilt, by this plan, when all sequences have so many tokens.
struct Rebuilt {
  size_t tokens = 0;
  Plan plan;
};

Outcome Answers(const OpenedModel& model, const Placed& placed, const std::vector<Rebuilt>& rebuilt) {
  PlacedCluster cluster(model, placed, 64, 1);
  Scheduler scheduler(cluster.engine(), {.batch = {.rows_per_step = kRowsPerStep}});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < kSequences; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    EXPECT_TRUE(scheduler.submit(RequestOf(model, i), sinks.back()).ok());
  }
  Outcome run;
  size_t least = 0;
  for (const Rebuilt& next : rebuilt) {
    for (const auto& sink : sinks) EXPECT_TRUE(sink->wait_tokens(std::max(next.tokens, least)));
    cluster.reopen(next.plan);
    // More than steps that were in flight can give: a cluster that ran no step has nothing for the next to keep.
    for (const auto& sink : sinks) least = std::max(least, sink->tokens().size() + 3);
    least = std::min<size_t>(least, 40);
    ++run.reopenings;
  }
  for (const auto& sink : sinks) {
    int waits = 0;
    while (!sink->wait_end() && waits < 20) ++waits;  // A crowded machine is slow.
    EXPECT_TRUE(sink->error().ok()) << ToString(sink->error());
    run.answers.push_back(sink->tokens());
  }
  run.stats = scheduler.stats();
  return run;
}

class KeptCachePlacement : public ::testing::TestWithParam<CachedFamily> {};

TEST_P(KeptCachePlacement, TheTokensAreThoseOfAnUndisturbedRunAndFewAreComputedAgain) {
  const auto model = OpenModel(TinyCheckpoint(GetParam().family, AffineFormat{4, 64}));
  ASSERT_TRUE(model.ok()) << ToString(model.status());
  const std::vector<Placed> placements = Placements(GetParam().kv);
  const Placed& one = placements[0];
  const Placed& two = placements[1];
  const Placed& beside = placements[2];  // All layers on the first node.
  const Plan whole = PlanFor(one, model->facts);
  const Plan halves = PlanFor(two, model->facts);
  Plan shifted = halves;  // A layer of the first node's is the second's.
  shifted.stages[1].layers.begin = --shifted.stages[0].layers.end;
  const Outcome expected = Answers(*model, one, {});
  EXPECT_EQ(expected.stats.prefix_cache.kept, 0);
  std::vector<std::pair<Placed, std::vector<Rebuilt>>> stories = {
      {one, {{3, whole}, {21, whole}}},
      {two, {{3, halves}, {21, halves}}},
      {two, {{3, shifted}, {21, halves}}},  // To the second node, and back.
  };
  if (model->facts.top_k > 0) {  // The second node keeps its experts.
    const Plan alone = PlanFor(beside, model->facts);
    stories.push_back({beside, {{3, alone}}});
    stories.push_back({two, {{3, alone}, {21, halves}}});
  }
  for (size_t i = 0; i < stories.size(); ++i) {
    const auto& [begin, rebuilt] = stories[i];
    SCOPED_TRACE(fmt::format("story {}: {}", i, begin.name));
    const Outcome run = Answers(*model, begin, rebuilt);
    EXPECT_EQ(run.answers, expected.answers);
    EXPECT_GT(run.stats.prefix_cache.kept, 0);
    // Of each sequence the block that was not full, and what was on its way.
    const int64_t again = run.stats.rows - expected.stats.rows;
    EXPECT_LE(again, run.reopenings * kSequences * (kBlockPositions + 2));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, KeptCachePlacement, testing::ValuesIn(CachedFamilies()),
                         [](const auto& cached) { return cached.param.name(); });

}  // namespace
}  // namespace shoal
