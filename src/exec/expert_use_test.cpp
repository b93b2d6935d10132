#include "exec/expert_use.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <thread>

namespace shoal {
namespace {

/// Layers 1 and 2 of three; layer 1 is dense, layer 2 has five experts, two per row.
class ExpertUseTest : public testing::Test {
 protected:
  void note(const std::vector<int32_t>& ids, ExpertRowCounts sent = {}) {
    const auto rows = static_cast<int64_t>(ids.size()) / 2;
    if (sent.rows == 0) sent.rows = static_cast<uint64_t>(rows);
    const std::vector<float> weights(ids.size(), 0.5f);
    use_.note(LayerId{2},
              {MatView<const int32_t>(ids.data(), rows, 2), MatView<const float>(weights.data(), rows, 2)},
              sent);
  }
  const std::vector<ExpertUse::Shape> shapes_ = {{5, 2}, {0, 0}, {5, 2}};
  ExpertUse use_{Range{1, 3}, shapes_};
};

TEST_F(ExpertUseTest, CountsRowsAndWhatTheyAreUsedWith) {
  note({3, 0, 1, 3}, {.rows = 2, .rows_local = 1, .rows_sent = 1, .messages = 1});
  note({4, 3}, {.rows = 1, .rows_local = 0, .rows_sent = 2, .messages = 2});
  const std::vector<LayerUseCount> counts = use_.take();
  ASSERT_EQ(counts.size(), 1u);
  EXPECT_EQ(counts[0].layer, LayerId{2});
  EXPECT_EQ(counts[0].use, (LayerUse{.top_k = 2, .rows = {1, 1, 0, 3, 1}, .sample = {0, 3, 1, 3, 3, 4}}));
  EXPECT_EQ(counts[0].rows, (ExpertRowCounts{.rows = 3, .rows_local = 1, .rows_sent = 3, .messages = 3}));
  EXPECT_TRUE(use_.take().empty());
}

TEST_F(ExpertUseTest, NoExpertIsCountedForNone) {
  note({kNoExpert, 4, kNoExpert, kNoExpert}, {.rows = 2, .rows_local = 2});
  const LayerUse use = use_.take().at(0).use;
  constexpr uint16_t kNone = LayerUse::kNoneSampled;
  EXPECT_EQ(use, (LayerUse{.top_k = 2, .rows = {0, 0, 0, 0, 1}, .sample = {4, kNone, kNone, kNone}}));
  EXPECT_EQ(use.experts(0).size(), 1u);
  EXPECT_TRUE(use.experts(1).empty());
}

TEST_F(ExpertUseTest, WhatIsNotOfItsLayersIsNotCounted) {
  const std::vector<int32_t> ids = {0, 1};
  const std::vector<float> weights = {1, 1};
  const Routing routing{MatView<const int32_t>(ids.data(), 1, 2), MatView<const float>(weights.data(), 1, 2)};
  for (const int32_t layer : {0, 1, 3, -1}) use_.note(LayerId{layer}, routing, {.rows = 1});
  use_.note(LayerId{2},
            {MatView<const int32_t>(ids.data(), 2, 1), MatView<const float>(weights.data(), 2, 1)},
            {.rows = 2});
  EXPECT_TRUE(use_.take().empty());
  EXPECT_TRUE(use_.counts({1, 3}, shapes_));
  EXPECT_FALSE(use_.counts({0, 3}, shapes_));
}

TEST_F(ExpertUseTest, ManyRowsAreSampledEvenlyOnceTheirNumberIsKnown) {
  constexpr int kRows = 40 * static_cast<int>(ExpertUse::kSamples);
  const auto steps = [&] {
    for (int i = 0; i < kRows; ++i) note({i < kRows / 2 ? 0 : 1, 2});
  };
  steps();
  LayerUse first = use_.take().at(0).use;
  EXPECT_EQ(first.sampled(), static_cast<int64_t>(ExpertUse::kSamples));  // Those that came first.
  EXPECT_EQ(first.rows, (std::vector<uint64_t>{kRows / 2, kRows / 2, kRows, 0, 0}));
  steps();
  const LayerUse second = use_.take().at(0).use;
  EXPECT_EQ(second.rows, first.rows);
  int64_t early = 0;
  for (int64_t r = 0; r < second.sampled(); ++r) early += second.row(r)[0] == 0 ? 1 : 0;
  EXPECT_GE(second.sampled(), static_cast<int64_t>(ExpertUse::kSamples) / 2);
  EXPECT_NEAR(static_cast<double>(early) / static_cast<double>(second.sampled()), 0.5, 0.01);
}

TEST_F(ExpertUseTest, NothingIsLostOrCountedTwiceWhileAnotherThreadTakes) {
  constexpr int kSteps = 20000;
  std::atomic<bool> done = false;
  std::vector<uint64_t> rows(5);
  uint64_t sampled = 0;
  const auto take = [&] {
    for (const LayerUseCount& count : use_.take()) {
      for (size_t e = 0; e < rows.size(); ++e) rows[e] += count.use.rows[e];
      sampled += static_cast<uint64_t>(count.use.sampled());
      for (int64_t r = 0; r < count.use.sampled(); ++r) ASSERT_LT(count.use.row(r)[0], count.use.row(r)[1]);
    }
  };
  std::thread taker([&] {
    while (!done) take();
  });
  for (int i = 0; i < kSteps; ++i) note({(i + 1) % 5, i % 5});
  done = true;
  taker.join();
  take();
  EXPECT_EQ(std::accumulate(rows.begin(), rows.end(), uint64_t{0}), uint64_t{2} * kSteps);
  EXPECT_EQ(rows, std::vector<uint64_t>(5, 2 * kSteps / 5));
  EXPECT_GT(sampled, 0u);
  EXPECT_LE(sampled, uint64_t{kSteps});
}

TEST(ExpertUses, PlansThatAlternateAreCountedByTheSameTwoAndOthersByAFew) {
  const std::vector<ExpertUse::Shape> shapes(40, {5, 2});
  ExpertUses uses;
  const auto first = uses.next({0, 2}, shapes);
  const auto second = uses.next({0, 3}, shapes);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(uses.next({0, 2}, shapes), first);
    EXPECT_EQ(uses.next({0, 3}, shapes), second);
  }
  EXPECT_THAT(uses.counted(), testing::ElementsAre(first, second));
  EXPECT_THAT(uses.counted(), testing::ElementsAre(second));  // Whose session goes on.
  for (int64_t end = 4; end < 40; ++end) (void)uses.next({0, end}, shapes);
  EXPECT_EQ(uses.counted().size(), ExpertUses::kKeptMax);
}

}  // namespace
}  // namespace shoal
