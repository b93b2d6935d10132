#include "sched/prefill_pacer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace shoal {
namespace {

using std::chrono::milliseconds;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Le;

std::vector<int64_t> Share(const std::vector<PrefillWish>& wishes, int64_t rows) {
  PrefillBudget budget(rows);
  return SharePrefill(wishes, budget);
}

TEST(SharePrefill, OneParty_FirstComeFirstServed) {
  EXPECT_THAT(Share({{"a", 0, 0, 100}, {"a", 0, 0, 100}, {"a", 0, 0, 100}}, 150), ElementsAre(100, 50, 0));
}

TEST(SharePrefill, PartiesGetEqualShares) {
  EXPECT_THAT(Share({{"a", 0, 0, 500}, {"a", 0, 0, 500}, {"b", 0, 0, 500}}, 200), ElementsAre(100, 0, 100));
  EXPECT_THAT(Share({{"a", 0, 0, 500}, {"b", 0, 0, 500}, {"c", 0, 0, 500}}, 4), ElementsAre(2, 1, 1));
}

TEST(SharePrefill, WhatOnePartyDoesNotNeedGoesToTheOthers) {
  EXPECT_THAT(Share({{"a", 0, 0, 500}, {"b", 0, 0, 10}}, 200), ElementsAre(190, 10));
  EXPECT_THAT(Share({{"a", 0, 0, 10}, {"b", 0, 0, 500}, {"a", 0, 0, 20}}, 200), ElementsAre(10, 170, 20));
  EXPECT_THAT(Share({{"a", 0, 0, 5}, {"b", 0, 0, 5}}, 200), ElementsAre(5, 5));
}

TEST(SharePrefill, ALowerPriorityNumberIsServedFirst) {
  EXPECT_THAT(Share({{"a", 5, 0, 500}, {"b", -1, 0, 150}, {"a", 0, 0, 30}}, 200), ElementsAre(20, 150, 30));
  EXPECT_THAT(Share({{"a", 1, 0, 500}, {"b", 0, 0, 500}}, 200), ElementsAre(0, 200));
}

TEST(SharePrefill, NothingWithoutRows) { EXPECT_THAT(Share({{"a", 0, 0, 500}}, 0), ElementsAre(0)); }

/// A cluster whose steps take what `cost_ms` says, on which some streams decode while a prompt comes.
struct Simulation {
  std::function<double(const StepLoad&)> cost_ms;
  milliseconds target{0};
  int64_t streams = 4;
  int64_t rows_per_step = 256;

  struct Step {
    int64_t rows = 0;
    double ms = 0;
  };
  /// The steps of a prompt.
  std::vector<Step> prompt(PrefillPacer& pacer, int64_t tokens, int64_t context) const {
    std::vector<Step> steps;
    for (int64_t position = 0; position < tokens;) {
      StepLoad load = decodes(context);
      PrefillBudget budget = pacer.budget(rows_per_step - streams, load, streams > 0);
      const std::vector<PrefillWish> wishes = {{"", 0, position, tokens - position}};
      const int64_t rows = SharePrefill(wishes, budget)[0];
      load.add_prefill(position, rows);
      position += rows;
      ++context;
      steps.push_back({rows, run(pacer, load)});
      if (rows == 0) break;
    }
    return steps;
  }
  void decode(PrefillPacer& pacer, int64_t steps, int64_t context) const {
    for (int64_t i = 0; i < steps; ++i) run(pacer, decodes(context + i));
  }
  StepLoad decodes(int64_t context) const {
    StepLoad load;
    for (int64_t i = 0; i < streams; ++i) load.add_decode(context, 1);
    return load;
  }
  double run(PrefillPacer& pacer, const StepLoad& load) const {
    const double ms = cost_ms(load);
    const std::vector<StageTiming> timings = {{.node = NodeId{0}, .busy_ns = static_cast<int64_t>(ms * 1e6)}};
    pacer.observe(load, timings, streams > 0);
    return ms;
  }
};

double Linear(const StepLoad& load) {
  return 20 + static_cast<double>(load.decode_rows) + 0.5 * static_cast<double>(load.prefill_rows) +
         5e-5 * static_cast<double>(load.decode_positions + load.prefill_positions);
}
/// Reads its weights in 20 ms, and multiplies few rows meanwhile.
double MemoryBound(const StepLoad& load) {
  const auto rows = static_cast<double>(load.decode_rows + load.prefill_rows);
  return std::max(20.0, 0.8 * rows) +
         5e-5 * static_cast<double>(load.decode_positions + load.prefill_positions);
}

TEST(PrefillPacer, WithoutATargetOrWithoutStreamsAPromptGetsAllRows) {
  for (const auto& [target, streams] : {std::pair(milliseconds(0), 4), std::pair(milliseconds(30), 0)}) {
    const Simulation simulation{.cost_ms = Linear, .target = target, .streams = streams};
    PrefillPacer pacer(target, 1);
    const auto steps = simulation.prompt(pacer, 2048, 100);
    EXPECT_THAT(steps, testing::SizeIs((2048 + 255 - streams) / (256 - streams)));
  }
}

class Pace : public ::testing::TestWithParam<double (*)(const StepLoad&)> {};

TEST_P(Pace, NinetyNineOfAHundredGapsStayWithinOneAndAHalfTargets) {
  const Simulation simulation{.cost_ms = GetParam(), .target = milliseconds(60)};
  PrefillPacer pacer(simulation.target, 1);
  simulation.decode(pacer, 100, 200);
  for (int prompts = 0; prompts < 3; ++prompts) {
    const auto steps = simulation.prompt(pacer, 16384, 300);
    const auto late = std::ranges::count_if(steps, [](const auto& step) { return step.ms > 90; });
    EXPECT_LE(100 * late, std::ssize(steps)) << "prompt " << prompts;
    int64_t rows = 0;
    for (const auto& step : steps) rows += step.rows;
    EXPECT_EQ(rows, 16384);
    // The time that is allowed is used: the mean step takes at least three quarters of it.
    double ms = 0;
    for (const auto& step : steps) ms += step.ms;
    EXPECT_GT(ms / static_cast<double>(steps.size()), 45) << "prompt " << prompts;
  }
}

INSTANTIATE_TEST_SUITE_P(Machines, Pace, ::testing::Values(&Linear, &MemoryBound),
                         [](const auto& test) { return test.index == 0 ? "Linear" : "MemoryBound"; });

TEST(PrefillPacer, AMachineThatOthersBeginToUseCostsFewLateSteps) {
  double slower = 0;
  const Simulation simulation{
      .cost_ms = [&](const StepLoad& load) { return slower + (1 + slower / 40) * Linear(load); },
      .target = milliseconds(120)};
  PrefillPacer pacer(simulation.target, 1);
  simulation.decode(pacer, 100, 200);
  (void)simulation.prompt(pacer, 8192, 300);
  slower = 20;  // What took 24 ms takes 56 now, and each row half as much again.
  const auto steps = simulation.prompt(pacer, 8192, 300);
  EXPECT_LE(std::ranges::count_if(steps, [](const auto& step) { return step.ms > 180; }), 8);
  EXPECT_LE(std::ranges::count_if(steps, [](const auto& step) { return step.ms > 130; }), 40);
}

TEST(PrefillPacer, ChunksShrinkAsThePositionGrows) {
  const Simulation simulation{.cost_ms = Linear, .target = milliseconds(60)};
  PrefillPacer pacer(simulation.target, 1);
  const auto steps = simulation.prompt(pacer, 16384, 300);
  EXPECT_LT(2 * steps[steps.size() - 2].rows, std::ranges::max(steps, {}, &Simulation::Step::rows).rows);
}

TEST(PrefillPacer, BeginsWithFewRowsAndDoubles) {
  const Simulation simulation{.cost_ms = Linear, .target = milliseconds(10'000)};
  PrefillPacer pacer(simulation.target, 1);
  const auto steps = simulation.prompt(pacer, 2000, 100);
  std::vector<int64_t> rows;
  for (const auto& step : steps) rows.push_back(step.rows);
  rows.resize(5);
  EXPECT_THAT(rows, ElementsAre(16, 32, 64, 128, 252));
}

TEST(PrefillPacer, WhereEvenDecodesTakeLongerThanTheTargetAPromptGetsTheLeast) {
  const Simulation simulation{.cost_ms = Linear, .target = milliseconds(5)};
  PrefillPacer pacer(simulation.target, 1);
  simulation.decode(pacer, 20, 200);
  std::vector<int64_t> rows;
  for (const auto& step : simulation.prompt(pacer, 1600, 300)) rows.push_back(step.rows);
  EXPECT_EQ(rows.size(), 100u);
  EXPECT_THAT(rows, Each(Le(16)));
}

TEST(PrefillPacer, TheLeastIsForAllPromptsOfAStepTogether) {
  PrefillPacer pacer(milliseconds(1), 1);
  const Simulation simulation{.cost_ms = Linear, .target = milliseconds(1)};
  (void)simulation.prompt(pacer, 64, 100);
  PrefillBudget budget = pacer.budget(256, simulation.decodes(100), true);
  const std::vector<PrefillWish> wishes = {{"a", 0, 0, 500}, {"b", 0, 0, 500}, {"c", 0, 0, 500}};
  EXPECT_THAT(SharePrefill(wishes, budget), ElementsAre(6, 5, 5));
}

}  // namespace
}  // namespace shoal
