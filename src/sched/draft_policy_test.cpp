#include "sched/draft_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shoal {
namespace {

using ::testing::Each;

constexpr int kSeen = 40;

/// A policy that has seen steps of `rows` and of `rows` + 16 rows, which cost 1 + slope * (rows - 1) units.
DraftPolicy PolicyOf(double slope, int64_t rows = 1) {
  DraftPolicy policy;
  for (int i = 0; i < kSeen; ++i) {
    for (const int64_t seen : {rows, rows + 4, rows + 8, rows + 16}) {
      policy.observe_step(seen, 1e6 * (1 + slope * static_cast<double>(seen - 1)), true);
    }
  }
  return policy;
}

/// `rates` after matches of `matched` tokens of which the given share was right.
void Learn(DraftPolicy& policy, DraftRates& rates, int64_t matched, double share) {
  double right = 0;
  for (int i = 0; i < kSeen; ++i) {
    right += share;
    const bool accepted = right >= 1;
    if (accepted) right -= 1;
    policy.verified(rates, {matched, 1, accepted ? 1 : 0});
  }
}

TEST(StepCost, KnowsTheCurveBetweenWhatItSaw) {
  StepCost cost;
  EXPECT_FALSE(cost.known());
  EXPECT_EQ(cost.at(3), 0);
  cost.observe(1, 100);
  EXPECT_NEAR(cost.at(11), 200, 1);  // A guess: a tenth more for each row.
  cost.observe(5, 300);
  EXPECT_NEAR(cost.at(3), 200, 1);
  EXPECT_NEAR(cost.at(9), 500, 1);  // As it went so far.
  cost.observe(100, 1000);
  cost.observe(1000, 9000);
  EXPECT_NEAR(cost.at(1000), 9000, 1);
  EXPECT_GT(cost.at(4096), 9000);
}

TEST(StepCost, MoreRowsNeverTakeLess) {
  StepCost cost;
  const double ns[] = {100, 130, 90, 180, 400, 250, 260};  // Noise.
  for (int64_t i = 0; i < 7; ++i) cost.observe(1 + 3 * i, ns[i]);
  for (int64_t rows = 1; rows < 300; ++rows) EXPECT_LE(cost.at(rows), cost.at(rows + 1)) << rows;
}

TEST(StepCost, FollowsALoadThatChanges) {
  StepCost cost;
  for (int i = 0; i < 100; ++i) cost.observe(1, 100);
  for (int i = 0; i < 30; ++i) cost.observe(1, 300);
  EXPECT_NEAR(cost.at(1), 300, 10);
}

TEST(StepCost, AWidthThatLookedDearIsTriedAgain) {
  StepCost cost;
  cost.observe(1, 100);
  cost.observe(5, 900);
  EXPECT_NEAR(cost.at(5), 900, 1);
  for (int i = 0; i < 300; ++i) cost.observe(1, 100);
  EXPECT_NEAR(cost.at(5), 140, 1);
}

TEST(DraftPolicy, DraftsThatAreMostlyRightAreLongOnesAndThoseThatAreWrongStop) {
  DraftPolicy policy = PolicyOf(0.1);
  DraftRates right;
  DraftRates wrong;
  for (const int64_t matched : {3, 5, 7, 12, 20}) Learn(policy, right, matched, 1);
  for (const int64_t matched : {3, 5, 7, 12, 20}) Learn(policy, wrong, matched, 0);
  const UndraftedStep alone{.decodes = 1, .rows = 1, .draft_rows = 100};
  const DraftCandidate good{&right, 20, 16};
  const DraftCandidate bad{&wrong, 20, 16};
  EXPECT_GE(policy.choose({{good}}, alone)[0], 8);
  EXPECT_EQ(policy.choose({{bad}}, alone)[0], 0);
  const auto both = policy.choose({{bad, good}}, {.decodes = 2, .rows = 2, .draft_rows = 100});
  EXPECT_EQ(both[0], 0);
  EXPECT_GE(both[1], 4);
}

TEST(DraftPolicy, ADearerRowMakesDraftsShorter) {
  int64_t before = 17;
  for (const double slope : {0.02, 0.2, 0.6, 1.0}) {
    DraftPolicy policy = PolicyOf(slope);
    DraftRates rates;
    for (const int64_t matched : {3, 5, 7, 12, 20}) Learn(policy, rates, matched, 0.8);
    const int64_t count = policy.choose({{{&rates, 5, 16}}}, {.decodes = 1, .rows = 1, .draft_rows = 100})[0];
    EXPECT_LT(count, before) << slope;
    before = count;
  }
  EXPECT_EQ(before, 0);  // A row that costs a whole step saves nothing.
}

// Steps of 64 rows that compute: a row more costs as much as any.
TEST(DraftPolicy, AWideStepHasNoRoomForGuesses) {
  DraftPolicy wide = PolicyOf(1, 64);
  DraftRates rates;
  for (const int64_t matched : {3, 5, 7, 12, 20}) Learn(wide, rates, matched, 0.7);
  const std::vector<DraftCandidate> all(64, {&rates, 20, 16});
  EXPECT_THAT(wide.choose(all, {.decodes = 64, .rows = 64, .draft_rows = 192}), Each(0));
  DraftPolicy narrow = PolicyOf(0.05);
  for (const int64_t matched : {3, 5, 7, 12, 20}) Learn(narrow, rates, matched, 0.7);
  EXPECT_GE(narrow.choose(std::span(all).first(1), {.decodes = 1, .rows = 1, .draft_rows = 192})[0], 3);
}

TEST(DraftPolicy, DraftsOfOneSequenceHardlySlowDownTheOthers) {
  DraftPolicy policy = PolicyOf(0.2, 4);
  DraftRates rates;
  for (const int64_t matched : {3, 5, 7, 12, 20}) Learn(policy, rates, matched, 1);
  std::vector<DraftCandidate> candidates(4, {&rates, 20, 16});
  const auto rows = [&] {
    int64_t sum = 0;
    for (const int64_t count : policy.choose(candidates, {.decodes = 4, .rows = 4, .draft_rows = 100}))
      sum += count;
    return sum;
  };
  EXPECT_GT(rows(), 8);  // All gain.
  candidates[2].tokens = 0;
  EXPECT_EQ(rows(), 0);  // A row takes an eighth of the step of four.
  policy = PolicyOf(0.02, 4);
  EXPECT_EQ(rows(), 5);  // 5 * 0.02 / 1.06 is the last below a tenth.
}

TEST(DraftPolicy, RowsThatWouldBeComputedAgainAreWeighed) {
  DraftPolicy policy = PolicyOf(0.3);
  DraftRates rates;
  for (const int64_t matched : {3, 5, 7, 12, 20}) Learn(policy, rates, matched, 0.8);
  const auto count = [&](const DraftCandidate& candidate, int64_t states_kept) {
    return policy.choose({{candidate}},
                         {.decodes = 1, .rows = 1, .draft_rows = 100, .states_kept = states_kept})[0];
  };
  const DraftCandidate draft{&rates, 5, 16};
  EXPECT_LT(count(draft, 0), count(draft, 16));
  EXPECT_LE(count(draft, -1), count(draft, 0));
  EXPECT_EQ(count(draft, 16), policy.choose({{draft}}, {.decodes = 1, .rows = 1, .draft_rows = 100})[0]);
}

TEST(DraftPolicy, AddsNoMoreRowsThanThereIsRoomFor) {
  DraftPolicy policy = PolicyOf(0.01);
  DraftRates rates;
  for (const int64_t matched : {3, 5, 7, 12, 20}) Learn(policy, rates, matched, 1);
  const std::vector<DraftCandidate> all(4, {&rates, 20, 16});
  int64_t rows = 0;
  for (const int64_t count : policy.choose(all, {.decodes = 4, .rows = 4, .draft_rows = 10})) rows += count;
  EXPECT_EQ(rows, 10);
}

TEST(DraftPolicy, NothingIsDraftedBeforeTheFirstStepWasSeen) {
  DraftPolicy policy;
  DraftRates rates;
  EXPECT_THAT(policy.choose({{{&rates, 20, 16}}}, {.decodes = 1, .rows = 1, .draft_rows = 16}), Each(0));
  policy.observe_step(1, 1e6, true);
  EXPECT_GT(policy.choose({{{&rates, 20, 16}}}, {.decodes = 1, .rows = 1, .draft_rows = 16})[0], 0);
}

TEST(DraftPolicy, WhatOthersHadIsExpectedOfANewSequence) {
  DraftPolicy policy;
  DraftRates seasoned;
  const DraftRates fresh;
  Learn(policy, seasoned, 5, 0);
  EXPECT_LT(policy.likelihood(fresh, {.matched = 5}), 0.1);
  EXPECT_GT(policy.likelihood(fresh, {.matched = 20}), 0.7);  // Longer matches are another matter.
  for (int i = 0; i < 3000; ++i) policy.observe_step(1, 1e6, true);
  EXPECT_GT(policy.likelihood(fresh, {.matched = 5}), 0.2);  // Mostly forgotten.
}

TEST(DraftPolicy, ASequenceIsBelievedAgainAfterAWhile) {
  DraftPolicy policy;
  DraftRates rates;
  Learn(policy, rates, 20, 0);
  const double before = policy.likelihood(rates, {.matched = 20});
  for (int i = 0; i < 300; ++i) policy.verified(rates, {});
  EXPECT_GT(policy.likelihood(rates, {.matched = 20}), before + 0.02);
}

}  // namespace
}  // namespace shoal
