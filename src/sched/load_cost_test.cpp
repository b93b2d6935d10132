#include "sched/load_cost.h"

#include <gtest/gtest.h>

#include <vector>

namespace shoal {
namespace {

constexpr double kMs = 1e6;

StepLoad Load(int64_t decodes, int64_t context, int64_t rows = 0, int64_t position = 0) {
  StepLoad load;
  for (int64_t i = 0; i < decodes; ++i) load.add_decode(context, 1);
  if (rows > 0) load.add_prefill(position, rows);
  return load;
}

/// 10 ms, 1 ms a decode, 0.1 ms a row of a prompt, and 10 us for each 1,000 positions that a row attends to.
double Cost(const StepLoad& load) {
  return 10 * kMs + static_cast<double>(load.decode_rows) * kMs +
         static_cast<double>(load.prefill_rows) * 0.1 * kMs +
         static_cast<double>(load.decode_positions + load.prefill_positions) * 1e-5 * kMs;
}

LoadCostModel Taught() {
  LoadCostModel model(1);
  for (int64_t i = 0; i < 60; ++i) {
    for (const StepLoad& load : {Load(1 + i % 5, 100 + 10 * i), Load(1 + i % 3, 500, 16 + i, 64 * i),
                                 Load(0, 0, 100 + i, 100 * i)}) {
      model.observe(load, Cost(load));
    }
  }
  return model;
}

TEST(LoadCostModel, KnowsNothingAtFirst) {
  const LoadCostModel model(1);
  EXPECT_FALSE(model.knows_prefill());
  EXPECT_EQ(model.cost_ns(Load(3, 100, 20, 0)), 0);
  EXPECT_EQ(model.rows_within(1, Load(3, 100), 0, 256), 256);
}

TEST(LoadCostModel, FindsWhatRowsAndPositionsCost) {
  const LoadCostModel model = Taught();
  for (const StepLoad& load :
       {Load(4, 300), Load(2, 500, 40, 3000), Load(0, 0, 256, 0), Load(4, 300, 64, 15000)}) {
    EXPECT_NEAR(model.cost_ns(load), Cost(load), 0.01 * Cost(load));
  }
}

TEST(LoadCostModel, FewerRowsFitWhereTheyAttendToMore) {
  const LoadCostModel model = Taught();
  const StepLoad decodes = Load(2, 500);
  const double target = 30 * kMs;
  int64_t before = 257;
  for (const int64_t position : {0, 4000, 15000, 60000}) {
    const int64_t rows = model.rows_within(target, decodes, position, 256);
    EXPECT_LT(rows, before) << position;
    EXPECT_NEAR(Cost(Load(2, 500, rows, position)), target, 0.02 * target) << position;
    before = rows;
  }
  EXPECT_EQ(model.rows_within(5 * kMs, decodes, 0, 256), 0);
  EXPECT_EQ(model.rows_within(kMs * 1000, decodes, 0, 256), 256);
}

TEST(LoadCostModel, AnHourOfDecodesLeavesWhatAPromptCosts) {
  LoadCostModel model = Taught();
  const StepLoad mixed = Load(2, 500, 64, 2000);
  for (int i = 0; i < 100'000; ++i) model.observe(Load(4, 600), Cost(Load(4, 600)));
  EXPECT_NEAR(model.cost_ns(mixed), Cost(mixed), 0.02 * Cost(mixed));
}

TEST(LoadCostModel, FollowsAMachineThatBecomesSlower) {
  LoadCostModel model = Taught();
  for (int64_t i = 0; i < 300; ++i) {
    for (const StepLoad& load : {Load(1 + i % 5, 100 + i), Load(1 + i % 3, 500, 16 + i % 60, 64 * i)}) {
      model.observe(load, 2 * Cost(load));
    }
  }
  const StepLoad load = Load(2, 500, 40, 3000);
  EXPECT_NEAR(model.cost_ns(load), 2 * Cost(load), 0.05 * 2 * Cost(load));
}

TEST(LoadCostModel, OneDisturbedStepMovesItLittle) {
  LoadCostModel model = Taught();
  const StepLoad load = Load(2, 500, 40, 3000);
  model.observe(load, 1000 * Cost(load));
  EXPECT_LT(model.cost_ns(load), 1.3 * Cost(load));
}

TEST(LoadCostModel, MoreRowsNeverCostLess) {
  LoadCostModel model(1);
  for (int64_t i = 1; i < 50; ++i) model.observe(Load(i % 4, 100, i, 10 * i), 10 * kMs - 1000.0 * double(i));
  EXPECT_LE(model.cost_ns(Load(1, 100, 10, 0)), model.cost_ns(Load(1, 100, 200, 0)));
  EXPECT_LE(model.cost_ns(Load(1, 100, 10, 0)), model.cost_ns(Load(1, 100, 10, 9000)));
}

TEST(LoadCostModel, ATokenOfAPipelineTakesAsLongAsItsSlowestStageLetsIt) {
  const LoadCostModel model(2);
  const auto time = [&](int64_t first, int64_t second) {
    const std::vector<StageTiming> timings = {{.node = NodeId{0}, .busy_ns = first - 1, .expert_wait_ns = 1},
                                              {.node = NodeId{1}, .busy_ns = second}};
    return model.time_ns(timings);
  };
  EXPECT_EQ(time(10, 10), 20);
  EXPECT_EQ(time(30, 10), 60);
  EXPECT_EQ(model.time_ns({}), 0);
}

TEST(LoadCostModel, AnEngineWithoutTimingsTeachesNothing) {
  LoadCostModel model(1);
  model.observe(Load(1, 100, 20, 0), 0);
  EXPECT_FALSE(model.knows_prefill());
}

}  // namespace
}  // namespace shoal
