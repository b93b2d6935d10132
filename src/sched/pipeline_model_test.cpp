#include "sched/pipeline_model.h"

#include <gtest/gtest.h>

namespace shoal {
namespace {

/// Stages that take a + b * rows each, in nanoseconds.
std::vector<StageTiming> Timings(std::vector<std::pair<int64_t, int64_t>> stages, int64_t rows) {
  std::vector<StageTiming> timings;
  for (size_t i = 0; i < stages.size(); ++i) {
    timings.push_back({NodeId{static_cast<int32_t>(i)}, stages[i].first + stages[i].second * rows, 0, 0});
  }
  return timings;
}

void Learn(PipelineModel& model, const std::vector<std::pair<int64_t, int64_t>>& stages, bool alone) {
  for (const int64_t rows : {1, 2, 4, 8, 16}) model.observe(rows, Timings(stages, rows), alone);
}

TEST(PipelineModel, WithoutDataAllStagesGetWork) {
  PipelineModel model(3);
  EXPECT_EQ(model.choose(12), 3);
  EXPECT_EQ(model.choose(2), 2);
  EXPECT_EQ(model.choose(1), 1);
}

TEST(PipelineModel, EqualStagesWhoseRowsCostGainBySeveralSteps) {
  PipelineModel model(2);
  Learn(model, {{1000, 500}, {1000, 500}}, false);
  // One step: 2 * (1000 + 8 * 500); two: 2 * (1000 + 4 * 500).
  EXPECT_NEAR(model.period_ns(8, 1), 10000, 1);
  EXPECT_NEAR(model.period_ns(8, 2), 6000, 1);
  EXPECT_EQ(model.choose(8), 2);
}

TEST(PipelineModel, ASlowStageThatReadsItsWeightsOncePerStepGainsByOneStep) {
  PipelineModel model(2);
  Learn(model, {{1000, 10}, {3000, 10}}, false);
  EXPECT_EQ(model.choose(8), 1);  // 4160 against 2 * 3040.
}

TEST(PipelineModel, StagesThatSlowEachOtherDownAreSeenByWhatStepsTakeAlone) {
  PipelineModel model(2);
  Learn(model, {{2000, 10}, {2000, 10}}, false);
  EXPECT_EQ(model.choose(8), 2);
  Learn(model, {{1000, 10}, {1000, 10}}, true);
  EXPECT_EQ(model.choose(8), 1);  // 2160 against 4080.
}

TEST(PipelineModel, TheOtherKindIsTriedNowAndThen) {
  PipelineModel model(2);
  int alone = 0;
  for (int i = 0; i < 2000; ++i) {
    const bool one = model.choose(8) == 1;
    alone += one;
    model.observe(one ? 8 : 4, Timings({{1000, 500}, {1000, 500}}, one ? 8 : 4), one);
  }
  EXPECT_GT(alone, 0);
  EXPECT_LT(alone, 50);
}

TEST(PipelineModel, TimingsOfAnotherNumberOfStagesAreNotBelieved) {
  PipelineModel model(2);
  model.observe(8, Timings({{1, 1}}, 8), false);
  EXPECT_EQ(model.period_ns(8, 2), 0);
}

}  // namespace
}  // namespace shoal
