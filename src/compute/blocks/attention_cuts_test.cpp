#include "compute/blocks/attention_cuts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace shoal {
namespace {

struct Shape {
  std::vector<Range> rows;
  int64_t kv_heads;
};

std::vector<AttentionRow> RowsOf(const Shape& shape) {
  std::vector<AttentionRow> rows;
  for (const Range positions : shape.rows) rows.push_back({.positions = positions});
  return rows;
}

std::vector<AttentionCut> Cut(const Shape& shape, int parts) {
  std::vector<AttentionCut> cuts(static_cast<size_t>(parts) + 1);
  CutAttention(RowsOf(shape), shape.kv_heads, cuts);
  return cuts;
}

/// Positions of single heads before a cut.
int64_t Before(const Shape& shape, const AttentionCut& cut) {
  int64_t sum = 0;
  for (int64_t r = 0; r < cut.row; ++r) sum += shape.rows[static_cast<size_t>(r)].size() * shape.kv_heads;
  if (!cut.inside) return sum;
  const Range positions = shape.rows[static_cast<size_t>(cut.row)];
  const auto end_of = [&](int64_t split) {
    return std::min(positions.end, (split + 1) * kAttentionSplitPositions);
  };
  const int64_t begin = std::max(positions.begin, cut.split * kAttentionSplitPositions);
  return sum + (begin - positions.begin) * shape.kv_heads + (end_of(cut.split) - begin) * cut.kv_head;
}

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes = {
      {{{0, 1}}, 1},
      {{{0, 33}}, 8},
      {{{0, 32768}}, 8},
      {{{0, 32768}}, 3},
      {{{700, 5000}}, 1},
      {{{0, 8192}, {0, 10}, {0, 10}, {0, 4000}}, 4},
      {{{0, 5}, {0, 100000}, {0, 5}}, 2},
      {{{1000, 1600}, {1001, 1601}, {1002, 1602}}, 2},
  };
  Shape prompt{{}, 8};
  for (int64_t p = 0; p < 512; ++p) prompt.rows.push_back({0, p + 1});
  shapes.push_back(prompt);
  return shapes;
}

TEST(AttentionSettings, TileTheLineOfCellsInOrder) {
  for (const Shape& shape : Shapes()) {
    for (const int parts : {1, 2, 3, 5, 16, 64}) {
      const std::vector<AttentionCut> cuts = Cut(shape, parts);
      EXPECT_EQ(cuts.front(), AttentionCut{});
      EXPECT_EQ(cuts.back(), AttentionCut{.row = static_cast<int64_t>(shape.rows.size())});
      for (size_t i = 1; i < cuts.size(); ++i) {
        EXPECT_LE(Before(shape, cuts[i - 1]), Before(shape, cuts[i])) << parts << " parts, part " << i;
      }
    }
  }
}

TEST(AttentionSettings, HaveTheSameNumberOfPositionsUpToHalfACellOrRow) {
  for (const Shape& shape : Shapes()) {
    const int64_t total = Before(shape, AttentionCut{.row = static_cast<int64_t>(shape.rows.size())});
    for (const int parts : {2, 3, 5, 16, 64}) {
      const std::vector<AttentionCut> cuts = Cut(shape, parts);
      for (size_t i = 0; i < cuts.size(); ++i) {
        const double even = static_cast<double>(total) * static_cast<double>(i) / parts;
        const double off =
            std::max(kAttentionSplitPositions / 2.0, static_cast<double>(total) / parts / 32) + 1;
        EXPECT_NEAR(static_cast<double>(Before(shape, cuts[i])), even, off) << parts << " parts, cut " << i;
      }
    }
  }
}

TEST(AttentionSettings, CutALongRowAndLeaveShortOnesWhole) {
  const Shape batch{{{0, 32768}, {0, 40}, {0, 41}, {0, 42}}, 8};
  const std::vector<AttentionCut> two = Cut(batch, 2);
  EXPECT_EQ(two[1].row, 0);
  EXPECT_TRUE(two[1].inside);
  Shape even{{}, 8};
  for (int r = 0; r < 64; ++r) even.rows.push_back({0, 1000 + r});
  for (const AttentionCut& cut : Cut(even, 3)) EXPECT_FALSE(cut.inside);
}

TEST(AttentionSettings, HeadsOfAShortRowAreDealtOut) {
  const Shape row{{{0, 100}}, 8};
  const std::vector<AttentionCut> cuts = Cut(row, 4);
  for (int64_t i = 1; i < 4; ++i) {
    EXPECT_EQ(cuts[static_cast<size_t>(i)],
              (AttentionCut{.row = 0, .split = 0, .kv_head = 2 * i, .inside = true}));
  }
}

}  // namespace
}  // namespace shoal
