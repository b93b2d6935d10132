#include "compute/blocks/pick_top.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "base/random.h"

namespace shoal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<int32_t> Picked(const std::vector<float>& scores, size_t count) {
  std::vector<int32_t> picked(count, -1);
  EXPECT_TRUE(PickTop(scores, picked));
  return picked;
}

/// By sorting all of them.
std::vector<int32_t> Sorted(const std::vector<float>& scores, size_t count) {
  std::vector<int32_t> all(scores.size());
  std::iota(all.begin(), all.end(), 0);
  std::ranges::stable_sort(all, [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  all.resize(count);
  std::ranges::sort(all);
  return all;
}

TEST(PickTop, GivesTheLargestInAscendingOrder) {
  EXPECT_EQ(Picked({3, -1, 7, 0, 5}, 3), (std::vector<int32_t>{0, 2, 4}));
  EXPECT_EQ(Picked({3}, 1), (std::vector<int32_t>{0}));
  EXPECT_EQ(Picked({-2, -1, -3}, 2), (std::vector<int32_t>{0, 1}));
}

TEST(PickTop, TiesGoToTheLowest) {
  EXPECT_EQ(Picked({1, 2, 1, 2, 1, 1}, 4), (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(Picked({-0.0f, 0.0f, -0.0f, 0.0f}, 2), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(Picked({0.0f, -0.0f, 1e-45f}, 2), (std::vector<int32_t>{0, 2}));
}

TEST(PickTop, InfinitiesAreScores) {
  EXPECT_EQ(Picked({-kInfinity, kInfinity, 0, kInfinity}, 3), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(Picked({-kInfinity, -kInfinity, -kInfinity}, 2), (std::vector<int32_t>{0, 1}));
}

TEST(PickTop, ANanIsRefusedWhereverItIs) {
  for (const size_t at : {0u, 3u, 9u}) {
    std::vector<float> scores(10, 1.0f);
    scores[at] = std::numeric_limits<float>::quiet_NaN();
    std::vector<int32_t> picked(4);
    EXPECT_FALSE(PickTop(scores, picked));
  }
}

TEST(PickTop, IsWhatSortingGives) {
  RandomStream random(1);
  for (int round = 0; round < 300; ++round) {
    const auto size = static_cast<size_t>(1 + random.below(round < 250 ? 200 : 5000));
    const uint64_t levels = round % 3 == 0 ? 5 : round % 3 == 1 ? 300 : 1u << 30;  // Few levels: many ties.
    std::vector<float> scores(size);
    for (float& score : scores) {
      score = (static_cast<float>(random.below(levels)) - static_cast<float>(levels) / 2) * 0x1p-12f;
    }
    const auto count = static_cast<size_t>(1 + random.below(size));
    ASSERT_EQ(Picked(scores, count), Sorted(scores, count)) << size << ", " << count << ", " << levels;
  }
}

}  // namespace
}  // namespace shoal
